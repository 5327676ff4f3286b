//! `synchronous` with the programs that people use: the server with `curl` and Python's `http.client`,
//! the client with nginx and Python's `http.server`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::peer::ClosedPort;
use crate::support::{find, missing, python, run, server, succeeds, text, trial, until};

pub fn trials() -> Vec<Trial> {
    let python = missing("python3");
    vec![
        trial("http_counterparts::curl", missing("curl"), curl),
        trial("http_counterparts::python_http_client", python, python_http_client),
        trial("http_counterparts::nginx", missing("nginx"), nginx),
        trial("http_counterparts::python_http_server", python, python_http_server),
    ]
}

fn curl() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let curl = |args: &[&str], path: &str| -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]).args(args);
        succeeds(&command.arg(format!("http://{}{path}", server.addr)).output()?)
    };
    ensure!(curl(&[], "/")? == "hello\n");
    ensure!(curl(&[], "/?a=b")? == "hello\n");
    ensure!(curl(&["--http1.0"], "/")? == "hello\n");
    ensure!(curl(&["--write-out", "%{http_code}"], "/x")?.ends_with("404"));
    ensure!(curl(&["--head"], "/")?.starts_with("HTTP/1.1 200 OK"));
    ensure!(curl(&["--data", "x=y", "--write-out", "%{http_code}"], "/")?.ends_with("405"));
    // As a client of a proxy it sends the absolute form.
    let proxy = format!("http://{}", server.addr);
    let args = ["--silent", "--noproxy", "", "--proxy", &proxy, "http://example.test/"];
    ensure!(succeeds(&Command::new("curl").args(args).output()?)? == "hello\n");
    Ok(())
}

fn python_http_client() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let script = "
import email.utils, http.client, sys, time
for method, path, status, body in [
    ('GET', '/', 200, b'hello\\n'),
    ('HEAD', '/', 200, b''),
    ('GET', '/x?y', 404, b'there is nothing at /x\\n'),
    ('POST', '/', 405, b'POST is not allowed\\n'),
]:
    client = http.client.HTTPConnection(sys.argv[1], timeout=20)
    client.request(method, path, body=b'x' * 100_000 if method == 'POST' else None)
    response = client.getresponse()
    assert (response.status, response.read()) == (status, body), (method, path, response.status)
    date = email.utils.parsedate_to_datetime(response.headers['Date']).timestamp()
    assert abs(date - time.time()) < 60, response.headers['Date']
";
    succeeds(&python(script, &[&server.addr])?).map(drop)
}

/// A body with a length, and one in chunks: with server-side includes, nginx does not know the length.
fn nginx() -> Result<()> {
    let (closed, dir) = (ClosedPort::new()?, TempDir::new()?);
    let root = dir.path().to_string_lossy().into_owned();
    let content = "0123456789\n".repeat(20_000);
    fs::write(dir.path().join("page.txt"), &content)?;
    fs::write(
        dir.path().join("nginx.conf"),
        format!(
            "user root; daemon off; master_process off; pid {root}/pid; error_log stderr notice;
             events {{}}
             http {{
                 access_log off; default_type text/plain;
                 client_body_temp_path {root}/a; proxy_temp_path {root}/b;
                 fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
                 server {{
                     listen {addr}; root {root};
                     location /chunked.txt {{ alias {root}/page.txt; ssi on; ssi_types *; }}
                 }}
             }}",
            addr = closed.addr,
        ),
    )?;
    let args = ["-p", &root, "-c", &format!("{root}/nginx.conf"), "-e", "stderr"];
    let process = Process::start("", Path::new(&find("nginx")), &args)?;
    process.expect("getrlimit")?; // the first line after it listens
    for (path, status) in [("page.txt", "200"), ("chunked.txt", "200"), ("missing", "404")] {
        let output = run("synchronous", &["get", &format!("http://{}/{path}", closed.addr)])?;
        let body = succeeds(&output)?;
        ensure!(text(&output.stderr).contains(status), "{output:?}");
        ensure!(status == "404" || body == content, "{path}: {} bytes", body.len());
    }
    Ok(())
}

/// HTTP/1.0, a body that ends with the connection, and a host name.
fn python_http_server() -> Result<()> {
    let dir = TempDir::new()?;
    fs::write(dir.path().join("page.txt"), "hello\n")?;
    let folder = dir.path().to_string_lossy().into_owned();
    let args = ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", &folder];
    let process = Process::start("", "python3".as_ref(), &args)?;
    let line = process.expect("Serving HTTP on")?;
    let port = line.split_whitespace().nth(5).unwrap_or_default().to_owned();
    until("it answers", || {
        let output = run("synchronous", &["get", &format!("http://localhost:{port}/page.txt")])?;
        Ok(output.status.success() && text(&output.stdout) == "hello\n")
    })?;
    // The list of the files.
    let output = run("synchronous", &["get", &format!("http://127.0.0.1:{port}/")])?;
    ensure!(succeeds(&output)?.contains("page.txt"), "{output:?}");
    Ok(())
}
