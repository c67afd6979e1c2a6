//! Mean and spread.

/// A sample, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation.
    pub deviation: f64,
    /// Smallest.
    pub least: f64,
    /// Lower quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub q3: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Largest.
    pub most: f64,
}

impl Summary {
    /// Sums up; zeros for an empty sample.
    #[must_use]
    pub fn of(sample: impl IntoIterator<Item = f64>) -> Self {
        let mut sample: Vec<f64> = sample.into_iter().collect();
        sample.sort_by(f64::total_cmp);
        let count = sample.len();
        let number = real(count);
        let mean = sample.iter().sum::<f64>() / number.max(1.0);
        let squares: f64 = sample.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            count,
            mean,
            deviation: (squares / (number - 1.0).max(1.0)).sqrt(),
            least: quantile(&sample, 0.0),
            q1: quantile(&sample, 0.25),
            median: quantile(&sample, 0.5),
            q3: quantile(&sample, 0.75),
            p95: quantile(&sample, 0.95),
            most: quantile(&sample, 1.0),
        }
    }
}

/// The quantile of a sorted sample, interpolated (type 7 of Hyndman and Fan, the default of R and
/// NumPy); 0 for an empty one.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = q.clamp(0.0, 1.0) * real(last);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = at.floor() as usize;
    let low = sorted.get(below).copied().unwrap_or(0.0);
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    low + (high - low) * (at - real(below))
}

/// A count as a real number.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a count of measurements")]
pub const fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_those_of_a_textbook() {
        let s = Summary::of([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!((s.mean - 5.0).abs() < 1e-9);
        assert!((s.deviation - (32.0f64 / 7.0).sqrt()).abs() < 1e-9);
        assert_eq!(
            (s.least, s.q1, s.median, s.q3, s.most),
            (2.0, 4.0, 4.5, 5.5, 9.0)
        );
        assert!((s.p95 - 8.3).abs() < 1e-9);
        assert_eq!(Summary::of([3.0]).median, 3.0);
        assert_eq!(Summary::of([]), Summary::default());
    }
}
