//! Hours of the week in which a rule holds, as JumpServer writes them: `00:00~12:00、14:00~24:00` per weekday.

use chrono::{DateTime, Datelike, Days, FixedOffset, TimeDelta, Timelike, Utc};

use crate::rules::TimePeriod;

/// An instant and how far the local clock is ahead of UTC: rules speak of local weekdays and hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub at: DateTime<Utc>,
    /// Seconds east of Greenwich, less than a day either way; anything else counts as 0.
    pub offset: i32,
}

impl Moment {
    pub fn utc(at: DateTime<Utc>) -> Self {
        Self { at, offset: 0 }
    }

    pub fn new(at: DateTime<Utc>, offset: i32) -> Self {
        Self { at, offset }
    }

    fn local(self) -> DateTime<Utc> {
        let offset = FixedOffset::east_opt(self.offset).map_or(0, |o| o.local_minus_utc());
        // Local wall time written as if it were UTC; only its calendar fields are read.
        self.at.checked_add_signed(TimeDelta::seconds(i64::from(offset))).unwrap_or(self.at)
    }

    pub fn is_within(self, periods: &[TimePeriod]) -> bool {
        let local = self.local();
        let weekday = u8::try_from(local.weekday().num_days_from_sunday()).unwrap_or(u8::MAX);
        let minute = u16::try_from(local.hour() * 60 + local.minute()).unwrap_or(u16::MAX);
        contains(periods, weekday, minute)
    }

    /// The next instant at which `is_within` may change; `None` when it never does. The offset is taken as it is now: whoever
    /// lives through a change of daylight saving asks again with the new one.
    pub fn next_edge(self, periods: &[TimePeriod]) -> Option<DateTime<Utc>> {
        let local = self.local();
        let midnight = local.date_naive().and_hms_opt(0, 0, 0)?.and_utc();
        let mut next: Option<DateTime<Utc>> = None;
        for ahead in 0..=7 {
            let Some(day) = midnight.checked_add_days(Days::new(ahead)) else { break };
            let weekday = u8::try_from(day.weekday().num_days_from_sunday()).unwrap_or(u8::MAX);
            let spans = periods.iter().filter(|p| p.id == weekday).filter_map(|p| parse(p).ok()).flatten();
            let edges = spans.flat_map(|(from, to)| [from, to]);
            let edges = edges.filter_map(|m| day.checked_add_signed(TimeDelta::minutes(i64::from(m))));
            next = edges.filter(|edge| *edge > local).chain(next).min();
        }
        // Back from wall time to the instant.
        next.and_then(|edge| self.at.checked_add_signed(edge - local))
    }
}

/// Minutes of a day, from (included) and to (excluded).
pub type Span = (u16, u16);

/// The spans of one line. An empty value is no time of that day.
pub fn parse(period: &TimePeriod) -> Result<Vec<Span>, String> {
    if period.id > 6 {
        return Err(format!("time_period: {} is not a weekday (0 is Sunday, 6 is Saturday)", period.id));
    }
    let mut spans = Vec::new();
    for part in period.value.split(['、', ',']).map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('~').ok_or_else(|| format!("time_period: \"{part}\" is not HH:MM~HH:MM"))?;
        let (from, to) = (minute(from)?, minute(to)?);
        if from >= to {
            return Err(format!("time_period: \"{part}\" ends before it starts"));
        }
        spans.push((from, to));
    }
    Ok(spans)
}

fn minute(text: &str) -> Result<u16, String> {
    let bad = || format!("time_period: \"{text}\" is not a time between 00:00 and 24:00");
    let (hour, minute) = text.trim().split_once(':').ok_or_else(bad)?;
    let (hour, minute): (u16, u16) = (hour.parse().map_err(|_| bad())?, minute.parse().map_err(|_| bad())?);
    let total = hour.checked_mul(60).and_then(|h| h.checked_add(minute)).ok_or_else(bad)?;
    if minute < 60 && total <= 24 * 60 { Ok(total) } else { Err(bad()) }
}

/// Whether (weekday 0 = Sunday, minute of the day) lies in one of the lines. No lines at all: always.
pub fn contains(periods: &[TimePeriod], weekday: u8, minute: u16) -> bool {
    if periods.is_empty() {
        return true;
    }
    periods
        .iter()
        .filter(|p| p.id == weekday)
        // A line that cannot be read holds at no time.
        .any(|p| parse(p).is_ok_and(|spans| spans.iter().any(|(from, to)| (*from..*to).contains(&minute))))
}
