//! Log-ins between two requests. Bounded in number and in time, in memory only: a restart means to log in again.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::Step;
use crate::error::LoginError;
use crate::random;

const MAX_PARKED: usize = 4_096;
const MINUTES: i64 = 5;

/// A step, and until when it is kept.
type Waiting = (DateTime<Utc>, Step);

#[derive(Default)]
pub(crate) struct Parked {
    steps: Mutex<HashMap<Vec<u8>, Waiting>>,
}

impl Parked {
    pub(super) fn put(&self, step: Step, now: DateTime<Utc>) -> Result<Zeroizing<String>, LoginError> {
        let ticket = random::token()?;
        let mut steps = self.steps.lock();
        if steps.len() >= MAX_PARKED {
            steps.retain(|_, (until, _)| *until > now);
            if steps.len() >= MAX_PARKED {
                return Err(LoginError::busy());
            }
        }
        steps.insert(key(&ticket), (now + TimeDelta::minutes(MINUTES), step));
        Ok(ticket)
    }

    pub(super) fn take(&self, ticket: &str, now: DateTime<Utc>) -> Option<Step> {
        let (until, step) = self.steps.lock().remove(&key(ticket))?;
        (until > now).then_some(step)
    }

    pub(crate) fn sweep(&self, now: DateTime<Utc>) {
        self.steps.lock().retain(|_, (until, _)| *until > now);
    }
}

/// Looked up by hash, so that the time of the look-up tells nothing of tickets.
fn key(ticket: &str) -> Vec<u8> {
    digest(&SHA256, ticket.as_bytes()).as_ref().to_vec()
}
