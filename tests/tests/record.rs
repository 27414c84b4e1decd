//! The record: verify is happy, then any changed byte is found; nothing readable is on the disk; kill -9 loses nothing
//! acknowledged; backup and recovery (issue "First light", DESIGN 3, 4, 8).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatehouse_tests::peers::Sshd;
use gatehouse_tests::run_limited;
use gatehouse_tests::world::{ADMIN_PASSWORD, USER_PASSWORD, World};

const LIMIT: Duration = Duration::from_secs(60);

/// A world in which one session was recorded, stopped.
async fn recorded() -> (World, Sshd) {
    let mut world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("zebra-host", &sshd).await;
    let user = world.add_user("walter-quince").await;
    world.grant(&user, &asset).await;
    let login = format!("walter-quince@{}@zebra-host", sshd.user);
    run_limited(&mut world.ssh(&login, &["echo pomegranate-output; seq 200"]), b"", LIMIT).ok();
    world.ended_sessions(&asset, 1).await;
    world.stop();
    (world, sshd)
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_under(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_is_happy_and_any_changed_byte_of_ledger_or_recording_is_found_and_named() {
    let (world, _sshd) = recorded().await;
    let verify = || run_limited(&mut world.cli(&["ledger", "verify"]), b"", LIMIT);
    verify().ok();
    let watched: Vec<PathBuf> = files_under(&world.data)
        .into_iter()
        .filter(|p| {
            let text = p.display().to_string();
            text.contains("/ledger/") || text.ends_with(".ghr")
        })
        .collect();
    assert!(watched.iter().any(|p| p.extension().is_some_and(|e| e == "ghr")), "{watched:?}");
    assert!(watched.len() >= 3, "segment, checkpoints and recording: {watched:?}");
    for path in watched {
        let good = fs::read(&path).unwrap();
        // Every byte is flipped by the unit tests of store and record; here a spread through the real files.
        let step = (good.len() / 12).max(1);
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            let done = verify();
            assert_eq!(done.code, Some(1), "byte {at} of {} changed and nothing was said", path.display());
            let said = format!("{}{}", done.text(), done.stderr);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(said.contains(name), "byte {at} of {name}: {said}");
        }
        if good.len() > 1 {
            fs::write(&path, &good[..good.len() - 1]).unwrap();
            assert_eq!(verify().code, Some(1), "{} cut by one byte and nothing was said", path.display());
        }
        fs::write(&path, &good).unwrap();
    }
    verify().ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_readable_is_in_the_data_directory() {
    let (world, sshd) = recorded().await;
    let secrets = [
        "walter-quince",
        "zebra-host",
        "pomegranate",
        USER_PASSWORD,
        ADMIN_PASSWORD,
        "Administrator",
        "admin@example.com",
        sshd.private_key.lines().nth(1).unwrap(),
    ];
    for path in files_under(&world.data) {
        let bytes = fs::read(&path).unwrap();
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|w| w.eq_ignore_ascii_case(secret.as_bytes()));
            assert!(!found, "{} holds {secret:?}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_loses_no_acknowledged_change_and_closes_the_sessions_it_left() {
    let mut world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    let login = format!("alice@{}@web1", sshd.user);
    let mut names = Vec::new();
    for round in 0..3 {
        let mut shell = gatehouse_tests::interactive::Interactive::start(world.client("ssh").args([
            "-tt",
            "-l",
            &login,
            "127.0.0.1",
        ]));
        shell.send("echo in-$((20+1))-flight\n");
        shell.expect("in-21-flight");
        tokio::time::sleep(Duration::from_millis(1500)).await;
        for n in 0..10 {
            let name = format!("label-{round}-{n}");
            world.admin.post("labels/labels/", serde_json::json!({"name": name, "value": "v"})).await;
            names.push(name);
        }
        world.kill();
        drop(shell);
        world.restart().await;
        let labels = world.admin.list("labels/labels/?limit=1000").await;
        for name in &names {
            assert!(labels.iter().any(|l| l["name"] == *name), "{name} was acknowledged and is gone");
        }
        let sessions = world.ended_sessions(&asset, round + 1).await;
        assert!(sessions.iter().all(|s| s["is_finished"] == true));
        let path = format!("terminal/sessions/{}/replay/download/?type=raw", sessions[0]["id"].as_str().unwrap());
        let (status, replay) = world.admin.raw(reqwest::Method::GET, &path, None).await;
        assert_eq!(status, 200);
        assert!(String::from_utf8_lossy(&replay).contains("in-21-flight"));
    }
    world.stop();
    run_limited(&mut world.cli(&["ledger", "verify"]), b"", LIMIT).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_opens_elsewhere_with_the_recovery_words_and_nowhere_without_them() {
    let (mut world, _sshd) = recorded().await;
    let file = world.dir.path().join("backup.ghb");
    let file_arg = file.to_str().unwrap().to_owned();
    run_limited(&mut world.cli(&["backup", "create", "--out", &file_arg]), b"", LIMIT).ok();
    let words = fs::read(&world.recovery).unwrap();
    let old = world.data.clone();

    let other = world.dir.path().join("elsewhere");
    world.data = other.clone();
    let wrong = run_limited(&mut world.cli(&["backup", "restore", "--from", &file_arg]), b"abandon ability\n", LIMIT);
    assert_eq!(wrong.code, Some(1));
    assert!(!other.exists() || fs::read_dir(&other).unwrap().next().is_none(), "wrong words left something behind");
    run_limited(&mut world.cli(&["backup", "restore", "--from", &file_arg]), &words, LIMIT).ok();
    run_limited(&mut world.cli(&["ledger", "verify"]), b"", LIMIT).ok();

    // The restored box is the same box.
    fs::remove_dir_all(&old).unwrap();
    fs::rename(&other, &old).unwrap();
    world.data = old;
    world.restart().await;
    let assets = world.admin.list("assets/hosts/?search=zebra").await;
    assert_eq!(assets.len(), 1);
    let sessions = world.admin.list("terminal/sessions/?limit=10").await;
    let path = format!("terminal/sessions/{}/replay/download/?type=raw", sessions[0]["id"].as_str().unwrap());
    let (status, replay) = world.admin.raw(reqwest::Method::GET, &path, None).await;
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&replay).contains("pomegranate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_file_is_recovered_with_the_words_and_an_administrator_gets_back_in() {
    let (world, _sshd) = recorded().await;
    fs::remove_file(world.data.join("root.key")).unwrap();
    assert_eq!(run_limited(&mut world.cli(&["ledger", "verify"]), b"", LIMIT).code, Some(1));
    let wrong = run_limited(&mut world.cli(&["recover", "seal"]), b"zoo zoo zoo\n", LIMIT);
    assert_eq!(wrong.code, Some(1));
    assert!(!world.data.join("root.key").exists());
    let words = fs::read(&world.recovery).unwrap();
    run_limited(&mut world.cli(&["recover", "seal"]), &words, LIMIT).ok();
    run_limited(&mut world.cli(&["ledger", "verify"]), b"", LIMIT).ok();

    let done = run_limited(&mut world.cli(&["recover", "admin", "--username", "admin"]), &words, LIMIT).ok();
    let text = done.text();
    let password = text.lines().find_map(|l| l.trim().strip_prefix("password: ")).unwrap_or_else(|| panic!("{text}"));
    assert_ne!(password, ADMIN_PASSWORD);
    drop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_verified_by_a_foreign_program_with_the_public_key_alone() {
    let (world, _sshd) = recorded().await;
    let report = run_limited(&mut world.cli(&["ledger", "verify", "--json"]), b"", LIMIT).ok();
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let key = report["keys"].as_object().unwrap().keys().next().unwrap().clone();
    let export = world.dir.path().join("ledger.jsonl");
    let out = export.to_str().unwrap();
    run_limited(&mut world.cli(&["ledger", "export", "--out", out]), b"", LIMIT).ok();
    let verify = |key: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/verify_export.py");
        let mut command = std::process::Command::new(gatehouse_tests::python());
        run_limited(command.arg(script).arg(&export).arg(key), b"", LIMIT)
    };
    let done = verify(&key).ok();
    assert!(done.text().contains(&format!("{} entries", report["entries"])), "{done:?}");
    assert_eq!(verify(&"0".repeat(64)).code, Some(1), "another key");
    let good = fs::read_to_string(&export).unwrap();
    for (from, to) in [("walter-quince", "walter-quinze"), ("\"seq\":2,", "\"seq\":3,")] {
        fs::write(&export, good.replacen(from, to, 1)).unwrap();
        assert_eq!(verify(&key).code, Some(1), "{from} became {to}");
    }
    let cut: Vec<&str> = good.lines().collect();
    fs::write(&export, cut[..cut.len() - 1].join("\n")).unwrap();
    assert_eq!(verify(&key).code, Some(1), "cut");
}
