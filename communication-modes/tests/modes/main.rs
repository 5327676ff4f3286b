//! The five modes with their faults, black box: real processes, on ports that the kernel picks.

mod callback;
mod contract;
mod decentralised;
mod intermediary;
mod publish_subscribe;
mod support;
mod synchronous;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let mut trials = contract::trials();
    trials.extend(synchronous::trials());
    trials.extend(callback::trials());
    trials.extend(intermediary::trials());
    trials.extend(publish_subscribe::trials());
    trials.extend(decentralised::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
