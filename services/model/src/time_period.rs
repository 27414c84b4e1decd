//! Hours of the week in which a rule holds, as JumpServer writes them: `00:00~12:00、14:00~24:00` per weekday.

use crate::rules::TimePeriod;

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
