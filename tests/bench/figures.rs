//! Samples, their medians, and the table at the end.

pub(crate) fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len() - 1;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "small counts"
    )]
    let at = (last as f64 * q).round() as usize;
    samples[at]
}

pub(crate) fn median(samples: &mut [f64]) -> f64 {
    quantile(samples, 0.5)
}

#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<String>,
    missed: usize,
}

/// Which side of the budget is good.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

impl Report {
    /// A figure with a budget.
    pub(crate) fn judge(&mut self, what: &str, value: f64, unit: &str, budget: f64, better: Better) {
        let met = if better == Better::Higher { value >= budget } else { value <= budget };
        let sign = if better == Better::Higher { "≥" } else { "≤" };
        if !met {
            self.missed += 1;
        }
        self.add(format!(
            "{} {what:<62} {value:>9.2} {unit:<8} budget {sign} {budget}",
            if met { "  ok  " } else { " MISS " }
        ));
    }

    /// A figure for context.
    pub(crate) fn note(&mut self, what: &str, value: f64, unit: &str) {
        self.add(format!("       {what:<62} {value:>9.2} {unit}"));
    }

    fn add(&mut self, line: String) {
        println!("{line}");
        self.lines.push(line);
    }

    pub(crate) fn print(&self) {
        println!("\n--- summary ---");
        self.lines.iter().for_each(|line| println!("{line}"));
        println!("{} figures, {} budgets missed", self.lines.len(), self.missed);
    }
}

/// Resident memory of a process in KiB.
pub(crate) fn rss_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// CPU seconds a process has used (user + system).
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
