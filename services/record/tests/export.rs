//! Exports against independent readers: an asciicast parser, a byte comparison, a terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use base64::Engine as _;
use bytes::Bytes;
use common::{Fixture, header, key, ms, noise, out};
use gatehouse_record::export::{CastOptions, asciicast, asciicast_with, raw_output, text};
use gatehouse_record::{Event, Reader, Sealed};
use proptest::prelude::*;
use serde_json::Value;
use std::time::Duration;

struct Cast {
    header: Value,
    lines: Vec<(f64, String, String)>,
}

fn parse(bytes: &[u8]) -> Cast {
    let mut lines = std::str::from_utf8(bytes).unwrap().lines();
    let header = serde_json::from_str(lines.next().unwrap()).unwrap();
    let lines = lines.map(|line| serde_json::from_str::<(f64, String, String)>(line).unwrap()).collect();
    Cast { header, lines }
}

impl Cast {
    /// The exact bytes of one stream, by the rule of the export's documentation.
    fn stream(&self, code: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (n, (_, line_code, data)) in self.lines.iter().enumerate() {
            if line_code != code {
                continue;
            }
            match self.lines.get(n + 1) {
                Some((_, next, exact)) if next == "b" => {
                    bytes.extend(base64::engine::general_purpose::STANDARD.decode(exact).unwrap());
                }
                _ => bytes.extend_from_slice(data.as_bytes()),
            }
        }
        bytes
    }
}

fn cast(reader: &mut Reader, options: CastOptions) -> Cast {
    let mut bytes = Vec::new();
    asciicast_with(reader, &mut bytes, options).unwrap();
    parse(&bytes)
}

fn raw(reader: &mut Reader) -> Vec<u8> {
    let mut bytes = Vec::new();
    let exported = raw_output(reader, &mut bytes).unwrap();
    assert!(exported.complete);
    bytes
}

async fn outputs(fixture: &Fixture, pieces: impl IntoIterator<Item = Vec<u8>>) -> Sealed {
    let events = pieces.into_iter().enumerate().map(|(n, piece)| (ms(n as u64 * 7), out(piece))).collect();
    fixture.record(header(), events).await
}

async fn as_text(pieces: impl IntoIterator<Item = &str>) -> String {
    let fixture = Fixture::new();
    let sealed = outputs(&fixture, pieces.into_iter().map(|piece| piece.as_bytes().to_vec())).await;
    let mut bytes = Vec::new();
    text(&mut fixture.reader(&sealed), &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn an_asciicast_has_the_format_that_players_expect() {
    let fixture = Fixture::new();
    let mut facts = header();
    facts.title = Some("root@web \"1\"".into());
    facts.shell = Some("/bin/bash".into());
    let started = facts.started.timestamp();
    let sealed = fixture
        .record(
            facts,
            vec![
                (ms(0), out("$ ")),
                (ms(1500), Event::Input(Bytes::from_static(b"ls\r"))),
                (ms(1501), Event::Command { index: 0, text: "ls".into(), risk: 0 }),
                (Duration::from_micros(2_000_001), out("a\x1b[31mb\u{4e2d}\r\n")),
                (ms(3000), Event::Resize { cols: 120, rows: 40 }),
                (ms(3001), Event::Marker("look".into())),
                (ms(3002), Event::Pause),
                (ms(3003), Event::Resume),
            ],
        )
        .await;
    let plain = cast(&mut fixture.reader(&sealed), CastOptions::default());
    let expected = serde_json::json!({
        "version": 2, "width": 80, "height": 24, "timestamp": started, "title": "root@web \"1\"",
        "env": {"TERM": "xterm-256color", "SHELL": "/bin/bash"},
    });
    assert_eq!(plain.header, expected);
    let lines: Vec<(f64, &str, &str)> = plain.lines.iter().map(|(at, code, data)| (*at, &**code, &**data)).collect();
    assert_eq!(
        lines,
        [
            (0.0, "o", "$ "),
            (1.501, "m", "ls"),
            (2.000_001, "o", "a\x1b[31mb\u{4e2d}\r\n"),
            (3.0, "r", "120x40"),
            (3.001, "m", "look"),
            (3.002, "m", "session paused"),
            (3.003, "m", "session resumed"),
        ]
    );
    let with_input = cast(&mut fixture.reader(&sealed), CastOptions { input: true, ..CastOptions::default() });
    assert_eq!(with_input.lines[1], (1.5, "i".to_owned(), "ls\r".to_owned()));
    assert_eq!(with_input.lines.len(), plain.lines.len() + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn exports_carry_every_byte(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..12),
                "[a\u{e9}\u{4e2d}\u{1f600}]{0,4}".prop_map(String::into_bytes),
                // The middle of characters.
                Just(vec![0xf0, 0x9f]), Just(vec![0x98, 0x80]), Just(vec![0xe4]), Just(vec![0xed, 0xa0, 0x80]),
            ],
            0..40,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            let fixture = Fixture::new();
            let expected = pieces.concat();
            let sealed = outputs(&fixture, pieces).await;
            assert_eq!(raw(&mut fixture.reader(&sealed)), expected);
            let exact = cast(&mut fixture.reader(&sealed), CastOptions::default());
            assert_eq!(exact.stream("o"), expected);
            let lossy = cast(&mut fixture.reader(&sealed), CastOptions { exact_bytes: false, ..CastOptions::default() });
            assert!(lossy.lines.iter().all(|line| line.1 == "o"));
            let shown: String = lossy.lines.into_iter().map(|line| line.2).collect();
            assert_eq!(shown, String::from_utf8_lossy(&expected));
        });
    }
}

#[tokio::test]
async fn split_characters_are_no_reason_for_exact_bytes() {
    let fixture = Fixture::new();
    let shown = "\u{4e2d}\u{6587} caf\u{e9} \u{1f600}\r\n".repeat(500);
    let sealed = outputs(&fixture, shown.as_bytes().chunks(5).map(<[u8]>::to_vec)).await;
    let cast = cast(&mut fixture.reader(&sealed), CastOptions::default());
    assert!(cast.lines.iter().all(|line| line.1 == "o"));
    assert_eq!(cast.stream("o"), shown.as_bytes());
}

#[tokio::test]
async fn megabytes_of_binary_output_come_out_identical() {
    let fixture = Fixture::new();
    let pieces: Vec<Vec<u8>> = (0..60).map(|n| noise(32_768 * (1 + n % 4), n as u64)).collect();
    let expected = pieces.concat();
    let sealed = outputs(&fixture, pieces).await;
    assert!(raw(&mut fixture.reader(&sealed)) == expected);
    let cast = cast(&mut fixture.reader(&sealed), CastOptions::default());
    assert!(cast.stream("o") == expected);
    // An export starts at the start, wherever the reader was.
    let mut reader = fixture.reader(&sealed);
    reader.seek(ms(200)).unwrap();
    assert!(raw(&mut reader) == expected);
}

#[tokio::test]
async fn an_unsealed_recording_is_exported_as_far_as_it_goes_and_says_so() {
    let fixture = Fixture::new();
    let recorder = fixture.pool.start(header()).await.unwrap();
    recorder.write(ms(0), out("so far")).await.unwrap();
    recorder.flush().await.unwrap();
    let mut reader = Reader::open(fixture.pool.dir().join(recorder.file()), &key()).unwrap();
    let mut bytes = Vec::new();
    let exported = asciicast(&mut reader, &mut bytes).unwrap();
    assert!(!exported.complete && exported.events == 1);
    assert_eq!(parse(&bytes).stream("o"), b"so far");
}

#[tokio::test]
async fn text_shows_what_the_terminal_showed() {
    assert_eq!(as_text(["$ echo hi\r\nhi\r\n", "$ ", "exit\r\n"]).await, "$ echo hi\nhi\n$ exit\n");
    assert_eq!(as_text(["secxet\x08\x08\x08ret\r\n"]).await, "secret\n", "overwritten on the line");
    assert_eq!(as_text(["\x1b[1;31mred\x1b[0m  \r\n\r\nend"]).await, "red\n\nend\n", "colours and padding go");
    assert_eq!(as_text(["a\r\n\x1b[?1049hvim screen\x1b[?1049lb\r\n"]).await, "a\nb\n", "full-screen programs");
    assert_eq!(as_text(["one\r\ntwo\x1bcthree"]).await, "one\ntwo\nthree\n", "a hard reset loses nothing");
    assert_eq!(as_text(["caf\u{e9} \u{4e2d}\u{6587}\r\n"]).await, "caf\u{e9} \u{4e2d}\u{6587}\n");
    assert_eq!(as_text([]).await, "");
}

#[tokio::test]
async fn text_includes_everything_that_scrolled_away() {
    let expected: String = (0..5_000).map(|n| format!("line number {n}\n")).collect();
    let sent = expected.replace('\n', "\r\n");
    let pieces: Vec<&str> = sent.as_bytes().chunks(1_000).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
    assert_eq!(as_text(pieces).await, expected);
    let long = "0123456789".repeat(1_000);
    assert_eq!(as_text([long.as_str(), "\r\n"]).await, format!("{long}\n"), "soft-wrapped lines are joined");
}

#[tokio::test]
async fn text_takes_any_bytes_and_any_size() {
    let fixture = Fixture::new();
    let mut facts = header();
    (facts.width, facts.height) = (0, 0);
    let mut events = vec![(ms(0), out("start\r\n"))];
    for n in 0..40u64 {
        events.push((ms(n), out(noise(3_000, n))));
        // What a hostile client may ask for: a model of this size would take hundreds of gigabytes.
        let (cols, rows) = if n % 2 == 0 { (u16::MAX, u16::MAX) } else { (1, 0) };
        events.push((ms(n), Event::Resize { cols, rows }));
    }
    let sealed = fixture.record(facts, events).await;
    let mut bytes = Vec::new();
    assert!(text(&mut fixture.reader(&sealed), &mut bytes).unwrap().complete);
    assert!(!bytes.is_empty());
}

#[tokio::test]
async fn an_export_that_cannot_be_written_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fixture = Fixture::new();
    let sealed = outputs(&fixture, [b"x\r\n".to_vec()]).await;
    let mut reader = fixture.reader(&sealed);
    for result in [raw_output(&mut reader, Full), asciicast(&mut reader, Full), text(&mut reader, Full)] {
        assert!(matches!(result, Err(gatehouse_record::ReadError::Export(_))), "{result:?}");
    }
}
