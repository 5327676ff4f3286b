//! The programs of the scoreboard: how each is built and started, and what it does not claim.

/// A program that runs under the contract.
#[derive(Debug)]
pub struct Program {
    /// Its name on the page.
    pub name: &'static str,
    /// What it is, in one phrase.
    pub what: &'static str,
    /// Its file in `contract/examples`, if it was written for the page.
    pub file: Option<&'static str>,
    /// The packages of Debian that it needs.
    pub packages: &'static str,
    /// Prints the version of the program or of its runtime.
    pub version: &'static [&'static str],
    /// Builds it, if that is necessary.
    pub build: Option<&'static [&'static str]>,
    /// The options for `contract`.
    pub options: &'static [&'static str],
    /// The command that starts it. `EXAMPLES` and `OUT` stand for the folders of the sources and of
    /// what is built.
    pub command: &'static [&'static str],
    /// Whether it is a server for production, so that each failure needs an explanation.
    pub for_production: bool,
    /// What it does not claim.
    pub notes: &'static [Note],
}

/// A documented reason why a case fails.
#[derive(Debug)]
pub struct Note {
    /// The case, or the line with all of its cases.
    pub case: &'static str,
    /// Where the documentation or the source says so.
    pub text: &'static str,
}

impl Program {
    /// The note for this case.
    pub fn note(&self, case: &str) -> Option<&'static Note> {
        let line = case.split("::").next().unwrap_or_default();
        self.notes.iter().find(|note| note.case == case || note.case == line)
    }
}

/// A program with only what every program has.
const PROGRAM: Program = Program {
    name: "",
    what: "",
    file: None,
    packages: "",
    version: &[],
    build: None,
    options: &[],
    command: &[],
    for_production: false,
    notes: &[KEEPALIVE],
};

const KEEPALIVE: Note =
    Note { case: "dead_peers", text: "The documentation leaves TCP keepalive to the user." };

/// The servers for production first, and then the examples by their language.
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "nginx",
        what: "nginx with one `return` directive and `so_keepalive=on`",
        file: Some("nginx.sh"),
        packages: "nginx-light",
        version: &["nginx", "-v"],
        options: &["--probe", "http"],
        command: &["sh", "EXAMPLES/nginx.sh", "{port}", "OUT/nginx"],
        for_production: true,
        notes: &[Note {
            case: "accept::accept_fails",
            text: "Its source stops watching the listener after EMFILE and ENFILE only (`ngx_event_accept.c`).",
        }],
        ..PROGRAM
    },
    Program {
        name: "redis-server",
        what: "Redis without persistence",
        packages: "redis-server",
        version: &["redis-server", "--version"],
        options: &["--probe", "redis"],
        command: &["redis-server", "--bind", "{host}", "--port", "{port}", "--save", ""],
        for_production: true,
        notes: &[
            Note {
                case: "accept::accept_fails",
                text: "Its source returns to the event loop after such an error, and the listener is still ready (`networking.c`, `acceptTcpHandler`).",
            },
            Note {
                case: "accept::out_of_descriptors_without_connections",
                text: "The same function. Redis avoids EMFILE by its limit on clients: `maxclients` in redis.conf.",
            },
            Note {
                case: "shutdown::signals_blocked_by_parent",
                text: "Its source installs handlers and does not change the signal mask, which execve(2) keeps (`server.c`, `setupSignalHandlers`).",
            },
            Note {
                case: "start::stdout_broken",
                text: "Its source ignores SIGPIPE only after it has logged its first lines (`server.c`, `initServer`).",
            },
            Note {
                case: "start::sigterm_during_lookup",
                text: "Its source sets a flag in the handler, and looks at the flag in the event loop (`server.c`, `sigShutdownHandler`).",
            },
            Note {
                case: "backpressure",
                text: "redis.conf says it: `client-output-buffer-limit normal 0 0 0`, no limit for normal clients.",
            },
        ],
        ..PROGRAM
    },
    Program {
        name: "memcached",
        what: "memcached with its defaults: 1024 connections, four threads",
        packages: "memcached",
        version: &["memcached", "--version"],
        options: &["--probe", "memcached", "--idle-clients", "900"],
        command: &["memcached", "-u", "root", "-l", "{host}", "-p", "{port}"],
        for_production: true,
        notes: &[
            Note {
                case: "accept::accept_fails",
                text: "Its source returns to the event loop after such an error, and the listener is still ready (`memcached.c`, `drive_machine`).",
            },
            Note {
                case: "accept::out_of_descriptors_without_connections",
                text: "Its source accepts again only when a connection closes, and there is none (`memcached.c`, `accept_new_conns`).",
            },
            Note {
                case: "shutdown::signals_blocked_by_parent",
                text: "Its source installs handlers and does not change the signal mask, which execve(2) keeps (`memcached.c`, `main`).",
            },
            Note {
                case: "start::sigterm_during_lookup",
                text: "Its source sets a flag in the handler, and looks at the flag in the event loop (`memcached.c`, `sig_handler`).",
            },
        ],
        ..PROGRAM
    },
    Program {
        name: "nats-server",
        what: "The NATS server with its defaults: `max_pending` allows 64 MiB for a client that does not read",
        packages: "nats-server",
        version: &["nats-server", "--version"],
        options: &["--probe", "nats", "--memory", "100"],
        command: &["nats-server", "--addr", "{host}", "--port", "{port}"],
        for_production: true,
        notes: &[
            Note {
                case: "accept::accept_fails",
                text: "Its source waits after a temporary error only (`server.go`, `acceptError`), and EPERM is not one.",
            },
            Note {
                case: "dead_peers",
                text: "Its documentation replaces TCP keepalive by its own PING: `ping_interval`, two minutes, and `ping_max`, two.",
            },
            Note {
                case: "shutdown",
                text: "Its source ends with status 1 after SIGTERM (`signal.go`, `handleSignals`).",
            },
            Note {
                case: "start::sigterm_during_lookup",
                text: "Its source holds a lock while it opens the listener, and waits for the lock when it has to end (`server.go`, `AcceptLoop` and `Shutdown`).",
            },
        ],
        ..PROGRAM
    },
    Program {
        name: "epoll-echo",
        what: "The server of this workspace, for comparison",
        packages: "none",
        version: &["cargo", "--version"],
        build: Some(&[
            "cargo",
            "build",
            "--quiet",
            "--release",
            "--manifest-path",
            "EXAMPLES/../../epoll-echo/Cargo.toml",
            "--target-dir",
            "OUT/epoll-echo",
        ]),
        command: &["OUT/epoll-echo/release/epoll-echo", "{addr}"],
        for_production: true,
        notes: &[],
        ..PROGRAM
    },
    Program {
        name: "python-asyncio",
        what: "streams of asyncio",
        file: Some("python-asyncio.py"),
        packages: "python3",
        version: &["/usr/bin/python3", "--version"],
        command: &["/usr/bin/python3", "EXAMPLES/python-asyncio.py", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "python-socketserver",
        what: "socketserver, a thread per client",
        file: Some("python-socketserver.py"),
        packages: "python3",
        version: &["/usr/bin/python3", "--version"],
        command: &["/usr/bin/python3", "EXAMPLES/python-socketserver.py", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "python-selectors",
        what: "an event loop on selectors",
        file: Some("python-selectors.py"),
        packages: "python3",
        version: &["/usr/bin/python3", "--version"],
        command: &["/usr/bin/python3", "EXAMPLES/python-selectors.py", "{host}", "{port}"],
        notes: &[
            KEEPALIVE,
            Note {
                case: "integrity",
                text: "The documentation says it in its comment on `send`: \"Hope it won't block\".",
            },
        ],
        ..PROGRAM
    },
    Program {
        name: "python-http",
        what: "http.server, a thread per client",
        file: Some("python-http.py"),
        packages: "python3",
        version: &["/usr/bin/python3", "--version"],
        options: &["--probe", "http"],
        command: &["/usr/bin/python3", "EXAMPLES/python-http.py", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "node-net",
        what: "node:net",
        file: Some("node-net.js"),
        packages: "nodejs",
        version: &["node", "--version"],
        command: &["node", "EXAMPLES/node-net.js", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "node-http",
        what: "node:http",
        file: Some("node-http.js"),
        packages: "nodejs",
        version: &["node", "--version"],
        options: &["--probe", "http"],
        command: &["node", "EXAMPLES/node-http.js", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "go-net",
        what: "Go's net, a goroutine per client",
        file: Some("go-net.go"),
        packages: "golang-go",
        version: &["go", "version"],
        build: Some(&["go", "build", "-o", "OUT/go-net", "EXAMPLES/go-net.go"]),
        command: &["OUT/go-net", "{addr}"],
        ..PROGRAM
    },
    Program {
        name: "go-http",
        what: "Go's net/http",
        file: Some("go-http.go"),
        packages: "golang-go",
        version: &["go", "version"],
        build: Some(&["go", "build", "-o", "OUT/go-http", "EXAMPLES/go-http.go"]),
        options: &["--probe", "http"],
        command: &["OUT/go-http", "{addr}"],
        ..PROGRAM
    },
    Program {
        name: "java-blocking",
        what: "java.net, a thread per client",
        file: Some("EchoBlocking.java"),
        packages: "default-jdk-headless",
        version: &["java", "-version"],
        build: Some(&["javac", "-d", "OUT", "EXAMPLES/EchoBlocking.java"]),
        command: &["java", "-cp", "OUT", "EchoBlocking", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "java-nio",
        what: "a Selector of java.nio",
        file: Some("EchoNio.java"),
        packages: "default-jdk-headless",
        version: &["java", "-version"],
        build: Some(&["javac", "-d", "OUT", "EXAMPLES/EchoNio.java"]),
        command: &["java", "-cp", "OUT", "EchoNio", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "libevent",
        what: "buffered events of libevent, in C",
        file: Some("libevent-echo.c"),
        packages: "libevent-dev pkg-config gcc",
        version: &["pkg-config", "--modversion", "libevent"],
        build: Some(&[
            "cc",
            "-O2",
            "-o",
            "OUT/libevent-echo",
            "EXAMPLES/libevent-echo.c",
            "-levent",
        ]),
        command: &["OUT/libevent-echo", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "libuv",
        what: "libuv, in C",
        file: Some("libuv-echo.c"),
        packages: "libuv1-dev pkg-config gcc",
        version: &["pkg-config", "--modversion", "libuv"],
        build: Some(&["cc", "-O2", "-o", "OUT/libuv-echo", "EXAMPLES/libuv-echo.c", "-luv"]),
        command: &["OUT/libuv-echo", "{host}", "{port}"],
        ..PROGRAM
    },
    Program {
        name: "tokio",
        what: "tokio, a task per client",
        file: Some("rust/src/bin/tokio-echo.rs"),
        packages: "none, but a crate",
        version: &[
            "sed",
            "-n",
            "/^name = \"tokio\"$/{n;s/[^0-9.]//gp}",
            "EXAMPLES/rust/Cargo.lock",
        ],
        build: Some(RUST),
        command: &["OUT/rust/release/tokio-echo", "{addr}"],
        ..PROGRAM
    },
    Program {
        name: "mio",
        what: "an event loop on mio",
        file: Some("rust/src/bin/mio-echo.rs"),
        packages: "none, but a crate",
        version: &["sed", "-n", "/^name = \"mio\"$/{n;s/[^0-9.]//gp}", "EXAMPLES/rust/Cargo.lock"],
        build: Some(RUST),
        command: &["OUT/rust/release/mio-echo", "{addr}"],
        ..PROGRAM
    },
    Program {
        name: "smol",
        what: "smol, a task per client",
        file: Some("rust/src/bin/smol-echo.rs"),
        packages: "none, but a crate",
        version: &["sed", "-n", "/^name = \"smol\"$/{n;s/[^0-9.]//gp}", "EXAMPLES/rust/Cargo.lock"],
        build: Some(RUST),
        command: &["OUT/rust/release/smol-echo", "{addr}"],
        ..PROGRAM
    },
    Program {
        name: "socat",
        what: "socat with a process per client",
        packages: "socat",
        version: &["sh", "-c", "socat -V | grep 'socat version'"],
        command: &["socat", "TCP-LISTEN:{port},bind={host},reuseaddr,fork", "PIPE"],
        ..PROGRAM
    },
    Program {
        name: "ncat",
        what: "Ncat with a process per client; it refuses clients beyond a hundred, its default",
        packages: "ncat",
        version: &["ncat", "--version"],
        options: &["--max-clients", "100"],
        command: &["ncat", "--listen", "{host}", "{port}", "--keep-open", "--exec", "/bin/cat"],
        ..PROGRAM
    },
];

const RUST: &[&str] = &[
    "cargo",
    "build",
    "--quiet",
    "--release",
    "--manifest-path",
    "EXAMPLES/rust/Cargo.toml",
    "--target-dir",
    "OUT/rust",
];
