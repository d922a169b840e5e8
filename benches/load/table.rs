//! The table that is printed: what, how much, what it should be.

/// Rows of a table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
    failed: usize,
}

impl Table {
    /// Adds a figure that is only told.
    pub(crate) fn note(&mut self, scenario: &str, what: &str, figure: impl Into<String>) {
        self.add(scenario, what, figure.into(), String::new());
    }

    /// Adds a figure with its goal and whether it was met.
    pub(crate) fn goal(
        &mut self,
        scenario: &str,
        what: &str,
        figure: impl Into<String>,
        goal: &str,
        met: bool,
    ) {
        if !met {
            self.failed += 1;
        }
        let mark = if met { "met" } else { "MISSED" };
        self.add(scenario, what, figure.into(), format!("{goal}: {mark}"));
    }

    fn add(&mut self, scenario: &str, what: &str, figure: String, goal: String) {
        // Also at once: a long run shows how it goes.
        eprintln!("  {scenario}: {what}: {figure} {goal}");
        self.rows
            .push([scenario.to_owned(), what.to_owned(), figure, goal]);
    }

    /// Prints it as Markdown; how many goals were missed.
    pub(crate) fn print(&self) -> usize {
        let heads = ["scenario", "figure", "measured", "goal"];
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .chain([heads[column].len()])
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 4] = std::array::from_fn(width);
        let line = |cells: [&str; 4]| {
            let cells: Vec<String> = cells
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            println!("| {} |", cells.join(" | "));
        };
        line(heads);
        let rules = widths.map(|width| "-".repeat(width));
        line([&rules[0], &rules[1], &rules[2], &rules[3]]);
        for [scenario, what, figure, goal] in &self.rows {
            line([scenario, what, figure, goal]);
        }
        self.failed
    }
}

/// `12,345`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `12.3 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
