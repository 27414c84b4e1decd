//! What recording costs: CPU seconds per GiB of terminal output, for kinds of output that compress differently.
//! Budget (DESIGN 15): at most 2 s per GiB for the whole session path. Only a release build says anything:
//! `cargo run --release -p gatehouse-record --example cost [MIB]`.
#![allow(clippy::print_stdout, reason = "the figures are its result")]

use bytes::Bytes;
use gatehouse_record::{Event, Header, MasterKey, PoolOptions, RecorderPool};
use std::time::Instant;
use uuid::Uuid;

const PIECE: usize = 32 * 1024;
const LEN: usize = 8 * 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib: usize = std::env::args().nth(1).map_or(Ok(1024), |mib| mib.parse())?;
    let dir = tempfile::tempdir()?;
    let pool = RecorderPool::new(dir.path().into(), MasterKey::new([1; 32]), PoolOptions::default())?;
    for (name, data) in [("noise", noise()), ("log lines", log_lines()), ("zeros", vec![0; LEN])] {
        let data = Bytes::from(data);
        let recorder = pool.start(Header::term(Uuid::now_v7(), Uuid::nil(), 80, 24, "xterm")).await?;
        let (cpu, start) = (cpu_seconds()?, Instant::now());
        for n in 0..mib * 1024 * 1024 / PIECE {
            let from = n * PIECE % LEN;
            recorder.write(start.elapsed(), Event::Output(data.slice(from..from + PIECE))).await?;
        }
        let sealed = recorder.close().await?;
        let per_gib = 1024.0 / f64::from(u32::try_from(mib)?);
        println!(
            "{name:>10}: {:.2} CPU s per GiB, {:.2} s wall per GiB, file {:.0} MiB per GiB",
            (cpu_seconds()? - cpu) * per_gib,
            start.elapsed().as_secs_f64() * per_gib,
            f64::from(u32::try_from(sealed.bytes >> 10)?) / 1024.0 * per_gib,
        );
    }
    Ok(())
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()) as f64;
    Ok((micros(usage.user_time()) + micros(usage.system_time())) / 1e6)
}

fn noise() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    (0..LEN)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

fn log_lines() -> Vec<u8> {
    let mut text = String::with_capacity(LEN + 128);
    for n in 0u64.. {
        if text.len() >= LEN {
            break;
        }
        text += &format!(
            "Nov 21 11:{:02}:{:02} host daemon[{}]: request {} from 10.0.{}.{} took {} us\r\n",
            n / 60 % 60,
            n % 60,
            n * 7 % 30_000,
            n * n % 1_000_003,
            n % 255,
            n * 3 % 255,
            n * n * 31 % 99_991
        );
    }
    text.truncate(LEN);
    text.into_bytes()
}
