//! The header of each server: the command after `Run:`, and the transcript below it.

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
        ensure!(named && Path::new(&figure).is_file(), "it is not drawn in {figure}");
    }

    let mut codes = page.codes.iter().skip_while(|code| !code.text.starts_with("cargo run "));
    let run = codes.next().context("the header does not say how it is run")?;
    let parsed = Run::parse(&run.text, workspace)?.context("this is not how it is run")?;
    ensure!(parsed.binary == *server, "{} runs another one", page.at(run.line));
    let block = codes.find(|code| code.language.is_some()).context("there is no transcript")?;
    let transcript = Step::of_block(&block.text);
    ensure!(!transcript.is_empty(), "{} shows no command", page.at(block.line));

    let run = Step::new(&run.text);
    if server.is_mode() {
        // The demonstration, and then the same in parts.
        session::run(&[run], workspace)?;
        return session::run(&transcript, workspace);
    }
    session::run(&[vec![run], transcript].concat(), workspace)
}
