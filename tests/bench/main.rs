//! `make bench`: what Gatehouse costs, as ratios against OpenSSH direct and through ProxyJump in the same run, beside the
//! budgets of the design. Machines are noisy: variants take turns, medians are compared, absolute figures are only context.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that cannot be set up should stop")]

mod figures;
mod scale;
mod soak;
mod ssh;

use figures::Report;
use gatehouse_tests::world::World;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut only = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--gatehouse" => {
                let path = args.next().unwrap_or_else(|| usage());
                gatehouse_tests::set_binary(path.into());
            }
            "--only" => only.push(args.next().unwrap_or_else(|| usage())),
            _ => usage(),
        }
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut report = Report::default();
    runtime.block_on(async {
        if ["throughput", "connect", "echo", "idle", "sftp", "stall", "soak"].into_iter().any(wanted) {
            let stage = ssh::Stage::start().await;
            if wanted("throughput") {
                stage.throughput(&mut report);
            }
            if wanted("connect") {
                stage.connect(&mut report);
            }
            if wanted("echo") {
                stage.echo(&mut report).await;
            }
            if wanted("sftp") {
                stage.sftp(&mut report);
            }
            if wanted("stall") {
                stage.stall(&mut report);
            }
            // Half an hour of transfers: only when asked for by name.
            if only.iter().any(|o| o == "soak") {
                stage.soak(&mut report);
            }
            if wanted("idle") {
                stage.idle(&mut report).await;
            }
        }
        if wanted("scale") {
            scale::run(&World::start().await, &mut report).await;
        }
    });
    report.print();
}

fn usage() -> ! {
    eprintln!("usage: bench [--gatehouse BINARY] [--only throughput|connect|echo|sftp|stall|idle|scale|soak]...");
    std::process::exit(2);
}
