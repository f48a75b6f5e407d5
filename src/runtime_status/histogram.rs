//! A histogram of durations, for metrics. Pure.

/// How many durations were at most each of some bounds.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    /// Upper bounds in seconds, and how many were at most that.
    pub(crate) buckets: Vec<(f64, u64)>,
    /// All of them.
    pub(crate) count: u64,
    /// Seconds in all.
    pub(crate) sum: f64,
}

impl Histogram {
    pub(crate) fn new(bounds: &[f64]) -> Self {
        Self {
            buckets: bounds.iter().map(|bound| (*bound, 0)).collect(),
            count: 0,
            sum: 0.0,
        }
    }

    pub(crate) fn add(&mut self, seconds: f64) {
        for (bound, count) in &mut self.buckets {
            if seconds <= *bound {
                *count += 1;
            }
        }
        self.count += 1;
        self.sum += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_into_every_bucket_that_is_large_enough() {
        let mut histogram = Histogram::new(&[1.0, 10.0]);
        for seconds in [0.5, 1.0, 5.0, 50.0] {
            histogram.add(seconds);
        }
        assert_eq!(histogram.buckets, [(1.0, 2), (10.0, 3)]);
        assert_eq!((histogram.count, histogram.sum), (4, 56.5));
    }
}
