//! The table: one line a row, printed as soon as it is measured.

use crate::plan::Plan;
use crate::samples::Samples;

/// What a row's figures are; they are kept in the base unit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    PerSecond,
    BytesPerSecond,
    Bytes,
    Count,
}

/// What the row must reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// In the row's unit, whatever the other side does.
    AtMost(f64),
    /// For information only.
    None,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: Unit,
    pub(crate) ours: &'a Samples,
    pub(crate) theirs: Option<(&'a str, &'a Samples)>,
    pub(crate) bar: Bar,
}

/// Prints rows and counts the missed bars.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    judged: usize,
    missed: usize,
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan) -> Self {
        println!("figures: median [lower quartile .. upper quartile]");
        print_line(["name", "ours", "theirs", "ratio", "bar", ""]);
        Self {
            plan,
            judged: 0,
            missed: 0,
        }
    }

    pub(crate) fn row(&mut self, row: &Row<'_>) {
        if !self.plan.wants(row.name) {
            return;
        }
        let theirs = row
            .theirs
            .map(|(peer, samples)| format!("{peer} {}", figures(row.unit, samples)));
        print_line([
            row.name,
            &figures(row.unit, row.ours),
            theirs.as_deref().unwrap_or("-"),
            row.ratio_text().as_deref().unwrap_or("-"),
            &row.bar_text(),
            self.verdict(row),
        ]);
    }

    pub(crate) fn finish(&self) {
        if self.plan.judges() {
            println!("{} of {} bars missed", self.missed, self.judged);
        } else {
            println!("smoke run: nothing judged");
        }
    }

    fn verdict(&mut self, row: &Row<'_>) -> &'static str {
        let Some(reached) = row.reached().filter(|_| self.plan.judges()) else {
            return "-";
        };
        self.judged += 1;
        self.missed += usize::from(!reached);
        if reached { "ok" } else { "MISS" }
    }
}

impl Row<'_> {
    fn ratio(&self) -> Option<f64> {
        self.theirs
            .map(|(_, theirs)| self.ours.median() / theirs.median())
    }

    fn ratio_text(&self) -> Option<String> {
        let (_, theirs) = self.theirs?;
        let spread = self.ours.ratios_to(theirs);
        let (low, high) = (spread.quantile(0.25), spread.quantile(0.75));
        Some(format!("{:.3} [{low:.3} .. {high:.3}]", self.ratio()?))
    }

    fn reached(&self) -> Option<bool> {
        match self.bar {
            Bar::RatioAtMost(most) => Some(self.ratio()? <= most),
            Bar::RatioAtLeast(least) => Some(self.ratio()? >= least),
            Bar::AtMost(most) => Some(self.ours.median() <= most),
            Bar::None => None,
        }
    }

    fn bar_text(&self) -> String {
        match self.bar {
            Bar::RatioAtMost(most) => format!("<= {most} x"),
            Bar::RatioAtLeast(least) => format!(">= {least} x"),
            Bar::AtMost(most) => {
                let (scale, suffix) = scale(self.unit, most);
                format!("<= {} {suffix}", most / scale)
            }
            Bar::None => "-".into(),
        }
    }
}

fn print_line(cells: [&str; 6]) {
    let [name, ours, theirs, ratio, bar, verdict] = cells;
    println!("{name:<40}| {ours:<28}| {theirs:<44}| {ratio:<26}| {bar:<10}| {verdict}");
}

/// All three in the unit that suits the median.
fn figures(unit: Unit, samples: &Samples) -> String {
    let (scale, suffix) = scale(unit, samples.median());
    let [median, low, high] = [0.5, 0.25, 0.75].map(|it| figure(samples.quantile(it) / scale));
    format!("{median} {suffix} [{low} .. {high}]").replace("  ", " ")
}

/// Three significant digits, and all of a whole number.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        it if it >= 100.0 || it.fract() == 0.0 => 0,
        it if it >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// The largest step that is not above `value`, else the smallest.
fn scale(unit: Unit, value: f64) -> (f64, &'static str) {
    let steps: &[(f64, &str)] = match unit {
        Unit::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")],
        Unit::PerSecond => &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")],
        Unit::BytesPerSecond => &[(1e9, "GB/s"), (1e6, "MB/s")],
        Unit::Bytes => &[(1024.0 * 1024.0, "MiB"), (1024.0, "KiB"), (1.0, "B")],
        Unit::Count => &[(1.0, "")],
    };
    let smallest = steps[steps.len() - 1];
    steps
        .iter()
        .copied()
        .find(|(step, _)| value.abs() >= *step)
        .unwrap_or(smallest)
}
