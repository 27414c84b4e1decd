//! The transfers at which the nearest peer fails: twenty SFTP gets and puts of 1 GiB, and 1 GiB through `cat` in both
//! directions at once, all byte-identical and without growth.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::figures::{Better, Report, rss_kib};
use crate::ssh::Stage;

const ROUNDS: usize = 20;

impl Stage {
    pub(crate) fn soak(&self, report: &mut Report) {
        let there = tempfile::Builder::new().prefix("gh-soak-").tempdir_in("/tmp").unwrap();
        let folder = there.path().file_name().unwrap().to_str().unwrap().to_owned();
        let (source, back) = (self.dir().join("gib"), self.dir().join("back"));
        gibibyte(&source, &self.bulk());
        let expected = digest(File::open(&source).unwrap());
        // What a first transfer costs once is not growth.
        self.transfer_once(&format!("put {} {folder}/0\n", source.display()));
        let before = rss_kib(self.pid());
        let begin = Instant::now();
        for round in 0..ROUNDS {
            let (near, far) = (source.display(), format!("{folder}/{round}"));
            self.transfer_once(&format!("put {near} {far}\nget {far} {}\nrm {far}\n", back.display()));
            assert_eq!(digest(File::open(&back).unwrap()), expected, "round {round}");
            std::fs::remove_file(&back).unwrap();
        }
        report.note("SFTP, 20 puts and 20 gets of 1 GiB byte-identical, in all", begin.elapsed().as_secs_f64(), "s");
        let begin = Instant::now();
        assert_eq!(self.full_duplex(&source), expected, "cat returned something else");
        report.note("ssh cat, 1 GiB in both directions at once, byte-identical", begin.elapsed().as_secs_f64(), "s");
        std::thread::sleep(std::time::Duration::from_secs(5));
        let growth = (rss_kib(self.pid()) - before) / before * 100.0;
        report.judge("memory after 41 GiB, against before", growth, "%", 10.0, Better::Lower);
    }

    fn transfer_once(&self, script: &str) {
        let mut child = self.gateway_sftp().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{script}");
    }

    fn full_duplex(&self, source: &Path) -> String {
        let mut ssh: Command = self.gateway();
        let mut child = ssh.arg("cat").stdin(File::open(source).unwrap()).stdout(Stdio::piped()).spawn().unwrap();
        let digest = digest(child.stdout.take().unwrap());
        assert!(child.wait().unwrap().success());
        digest
    }
}

fn gibibyte(path: &Path, bulk: &Path) {
    let mut file = File::create(path).unwrap();
    let bytes = std::fs::read(bulk).unwrap();
    let mut left = 1 << 30;
    while left > 0 {
        let n = left.min(bytes.len());
        file.write_all(&bytes[..n]).unwrap();
        left -= n;
    }
}

fn digest(mut from: impl Read) -> String {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = from.read(&mut buffer).unwrap();
        if n == 0 {
            return data_encoding::HEXLOWER.encode(&hash.finalize());
        }
        hash.update(&buffer[..n]);
    }
}
