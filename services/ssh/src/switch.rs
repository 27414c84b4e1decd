//! Switching accounts inside a fresh shell (C18): drives dial's state machine. Neither the user nor the recording sees any
//! of it; what they see first is the prompt of the account they asked for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gatehouse_dial::su::{Step, Switch, SwitchError};
use gatehouse_session::SuPlan;

use crate::asset::{AssetEvent, AssetReader, AssetWriter};

/// For the whole switch.
const WITHIN: Duration = Duration::from_secs(20);

/// Switches, and returns what the user may see first.
pub(crate) async fn switch(plan: SuPlan, reader: &mut AssetReader, writer: &AssetWriter) -> Result<Bytes, SwitchError> {
    let now = Instant::now();
    let mut switch = Switch::new(plan.method, &plan.username, plan.secret, now, now + WITHIN)?;
    loop {
        let wait = switch.wake_at().saturating_duration_since(Instant::now());
        let step = match tokio::time::timeout(wait, reader.next()).await {
            Ok(Some(AssetEvent::Data(data) | AssetEvent::Extended(_, data))) => switch.feed(&data, Instant::now()),
            Ok(Some(AssetEvent::ExitStatus(_) | AssetEvent::ExitSignal { .. })) => continue,
            Ok(Some(AssetEvent::Eof) | None) => return Err(switch.closed()),
            Err(_) => switch.tick(Instant::now()),
        };
        match step {
            Step::Wait => {}
            Step::Type(bytes) => {
                if writer.data(Bytes::copy_from_slice(&bytes)).await.is_err() {
                    return Err(switch.closed());
                }
            }
            Step::Done => return Ok(Bytes::copy_from_slice(switch.prompt())),
            Step::Failed(error) => return Err(error),
        }
    }
}
