//! Letters on their way. All go to the same server, so when it does not answer all of them wait, with growing pauses; one
//! that it refuses is given up alone.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use gatehouse_model::notice::Notice;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::Notify;
use crate::inbox::{lines, one_line};

/// Letters that wait after a failure, beside those in the channel.
const MAX_WAITING: usize = 1_024;
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A letter that is older is given up.
const MAX_AGE: TimeDelta = TimeDelta::days(1);

/// A letter to one address.
pub(crate) struct Letter {
    to: String,
    subject: String,
    /// May carry a one-time code.
    text: Zeroizing<String>,
    since: DateTime<Utc>,
}

impl Letter {
    pub(crate) fn new(to: &str, notice: &Notice, since: DateTime<Utc>) -> Self {
        Self { to: to.to_owned(), subject: one_line(&notice.subject), text: Zeroizing::new(lines(&notice.text)), since }
    }
}

pub(crate) struct Outgoing {
    notify: Notify,
    incoming: mpsc::Receiver<Letter>,
    waiting: VecDeque<Letter>,
    pause: Duration,
}

/// What became of a letter.
enum Outcome {
    Gone,
    Later(Letter),
}

impl Outgoing {
    pub(crate) fn new(notify: Notify, incoming: mpsc::Receiver<Letter>) -> Self {
        Self { notify, incoming, waiting: VecDeque::new(), pause: FIRST_PAUSE }
    }

    /// Until the channel is closed; then each letter that is left is tried once more.
    pub(crate) async fn run(mut self) {
        while let Some(letter) = self.incoming.recv().await {
            if let Outcome::Later(letter) = self.try_send(letter).await {
                self.waiting.push_back(letter);
                if !self.wait_for_server().await {
                    break;
                }
            }
        }
        while let Some(letter) = self.waiting.pop_front() {
            if let Outcome::Later(_) = self.try_send(letter).await {
                self.give_up("the program ends");
            }
        }
    }

    /// Tries the oldest letter again after each pause, and takes new ones in meanwhile. `false`: the channel is closed.
    async fn wait_for_server(&mut self) -> bool {
        while !self.waiting.is_empty() {
            let wake = tokio::time::sleep(self.pause);
            tokio::pin!(wake);
            loop {
                tokio::select! {
                    () = &mut wake => break,
                    letter = self.incoming.recv(), if self.waiting.len() < MAX_WAITING => match letter {
                        Some(letter) => self.waiting.push_back(letter),
                        None => return false,
                    },
                }
            }
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            while let Some(letter) = self.waiting.pop_front() {
                if let Outcome::Later(letter) = self.try_send(letter).await {
                    self.waiting.push_front(letter);
                    break;
                }
            }
        }
        true
    }

    async fn try_send(&mut self, letter: Letter) -> Outcome {
        let config = match self.notify.mail_config() {
            Ok(Some(config)) => config,
            Ok(None) => {
                self.give_up("no mail server is configured any more");
                return Outcome::Gone;
            }
            Err(error) => {
                tracing::error!(%error, "the mail settings could not be read");
                return Outcome::Later(letter);
            }
        };
        match config.send(&letter.to, &letter.subject, &letter.text).await {
            Ok(()) => {
                self.pause = FIRST_PAUSE;
                self.notify.inner.counters.mail_sent();
                Outcome::Gone
            }
            Err(error) if error.may_pass() && (self.notify.inner.clock)() - letter.since < MAX_AGE => {
                tracing::warn!(%error, "mail waits for the server");
                Outcome::Later(letter)
            }
            Err(error) => {
                self.give_up(&error.to_string());
                Outcome::Gone
            }
        }
    }

    fn give_up(&self, why: &str) {
        self.notify.inner.counters.mail_failed();
        tracing::error!(why, "a mail was not sent");
    }
}
