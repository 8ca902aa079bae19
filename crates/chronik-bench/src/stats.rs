//! Figures of several rounds, as medians with their spread, and the ratios between systems.

use std::collections::BTreeMap;

use crate::cases::Case;
use crate::systems::System;

/// What one run of a case noted, by name; the names carry their units.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(BTreeMap<&'static str, f64>);

impl Figures {
    pub(crate) fn note(&mut self, name: &'static str, value: f64) {
        self.0.insert(name, value);
    }
}

/// Prints a row for each figure: each system's median with least and most, and the ratio of the first system's
/// median to the second's.
pub(crate) fn print(case: Case, systems: &[System], results: &[Vec<Figures>]) {
    println!("\n{case:?}");
    let names: Vec<&'static str> = results
        .iter()
        .flatten()
        .next()
        .map(|figures| figures.0.keys().copied().collect())
        .unwrap_or_default();
    for name in names {
        let mut medians = Vec::new();
        let mut row = format!("  {name:20}");
        for (system, runs) in systems.iter().zip(results) {
            let mut values: Vec<f64> =
                runs.iter().filter_map(|figures| figures.0.get(name).copied()).collect();
            values.sort_by(f64::total_cmp);
            let (Some(least), Some(most)) = (values.first(), values.last()) else { continue };
            let median = median(&values);
            row = format!("{row}  {} {median:.2} ({least:.2} to {most:.2})", system.name);
            medians.push(median);
        }
        if let [ours, theirs] = medians.as_slice() {
            row = format!("{row}  ratio {:.3}", ours / theirs);
        }
        println!("{row}");
    }
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle), middle.checked_sub(1).and_then(|below| sorted.get(below))) {
        (1, Some(value), _) => *value,
        (0, Some(above), Some(below)) => f64::midpoint(*above, *below),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
