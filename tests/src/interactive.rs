//! A program on the other end of pipes that is typed to and read from, as a person would: wait for what it shows, answer.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Interactive {
    child: Child,
    stdin: Option<ChildStdin>,
    seen: Arc<Mutex<Vec<u8>>>,
    /// How far `expect` has read.
    read: usize,
}

impl Interactive {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut pipes: Vec<Box<dyn Read + Send>> =
            vec![Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut pipe in pipes.drain(..) {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(n) = pipe.read(&mut buffer) {
                    if n == 0 {
                        break;
                    }
                    seen.lock().unwrap().extend_from_slice(&buffer[..n]);
                }
            });
        }
        let stdin = child.stdin.take();
        Self { child, stdin, seen, read: 0 }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes.as_ref()).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits until `text` appears after what was expected before; answers everything up to and with it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        self.expect_within(text, Duration::from_secs(20))
    }

    #[track_caller]
    pub fn expect_within(&mut self, text: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            {
                let seen = self.seen.lock().unwrap();
                let fresh = &seen[self.read..];
                if let Some(at) = fresh.windows(text.len()).position(|w| w == text.as_bytes()) {
                    let upto = at + text.len();
                    let answer = String::from_utf8_lossy(&fresh[..upto]).into_owned();
                    self.read += upto;
                    return answer;
                }
                assert!(
                    Instant::now() < end,
                    "waited {limit:?} for {text:?}; since the last match came: {:?}",
                    String::from_utf8_lossy(fresh)
                );
            }
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    /// Everything that came so far.
    pub fn all(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Closes its input and waits for the end; answers the exit code.
    #[track_caller]
    pub fn finish(&mut self) -> Option<i32> {
        self.stdin = None;
        self.wait_end(Duration::from_secs(20))
    }

    /// Waits for the end by itself.
    #[track_caller]
    pub fn wait_end(&mut self, limit: Duration) -> Option<i32> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "still running after {limit:?}; so far: {}", self.all());
            std::thread::sleep(Duration::from_millis(15));
        }
    }
}

impl Drop for Interactive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
