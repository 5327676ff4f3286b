//! The five modes and what can go wrong with them. The tests see only what a user sees: they start the
//! real programs, on ports that the kernel picks.

mod broker;
mod broker_limits;
mod broker_sequences;
mod callback;
mod callback_server;
mod contract;
mod decentralised;
mod docs;
mod gossip;
mod http_client;
mod http_counterparts;
mod http_responses;
mod http_server;
mod intermediary;
mod intermediary_faults;
mod intermediary_network;
mod jobs;
mod namespace;
mod nats;
mod nats_client;
mod nats_client_faults;
mod nats_real_clients;
mod peer;
mod rfc9112;
mod support;

use std::process::ExitCode;
use std::thread;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let trials = [
        gossip::trials(), // first, because it takes longest
        contract::trials(),
        docs::trials(),
        http_client::trials(),
        http_responses::trials(),
        http_server::trials(),
        http_counterparts::trials(),
        rfc9112::trials(),
        callback::trials(),
        callback_server::trials(),
        intermediary::trials(),
        intermediary_faults::trials(),
        intermediary_network::trials(),
        broker::trials(),
        broker_limits::trials(),
        broker_sequences::trials(),
        nats_client::trials(),
        nats_client_faults::trials(),
        nats_real_clients::trials(),
        jobs::trials(),
        decentralised::trials(),
    ];
    let mut arguments = Arguments::from_args();
    // Most tests wait more than they compute.
    let threads = thread::available_parallelism().map_or(4, |cores| 4 * cores.get());
    arguments.test_threads.get_or_insert(threads);
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}
