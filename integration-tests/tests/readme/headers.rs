//! The header of each server: the command after `Run:` works, and shows the transcript below it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use integration_tests::{Binary, Page, Workspace};
use libtest_mimic::Trial;

use crate::session::{Run, Step};
use crate::{session, trial};

pub fn trials(workspace: &Arc<Workspace>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for server in workspace.servers().cloned() {
        let workspace = Arc::clone(workspace);
        let name = format!("headers::{}", server.path.display());
        trials.push(trial(name, move || holds(&server, &workspace)));
    }
    trials
}

fn holds(server: &Binary, workspace: &Workspace) -> Result<()> {
    let figure = format!("docs/figures/{}.svg", server.name);
    let page = Page::of_header(&server.path)?;
    if !server.is_mode() {
        let named = page.codes.iter().any(|code| code.text == figure);
        ensure!(
            named && Path::new(&figure).is_file(),
            "the header does not name {figure}, or the file does not exist"
        );
    }

    let mut codes = page.codes.iter().skip_while(|code| !code.text.starts_with("cargo run "));
    let run = codes.next().context("the header has no command")?;
    let parsed =
        Run::parse(&run.text, workspace)?.context("the first command is not `cargo run`")?;
    ensure!(parsed.binary == *server, "{} runs another program", page.at(run.line));
    let block = codes.find(|code| code.language.is_some()).context("there is no transcript")?;
    let transcript = Step::of_block(&block.text);
    ensure!(!transcript.is_empty(), "{} shows no command", page.at(block.line));

    let run = Step::new(&run.text);
    if server.is_mode() {
        // First the demonstration in one process, then its parts as separate processes.
        session::run(&[run], workspace)?;
        return session::run(&transcript, workspace);
    }
    session::run(&[vec![run], transcript].concat(), workspace)
}
