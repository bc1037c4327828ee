// SPDX-License-Identifier: MPL-2.0

//! Reproducible pseudo-random numbers.

/// A generator; its seed is the field.
#[derive(Clone, Copy, Debug)]
pub struct Noise(pub u64);

impl Noise {
    /// Uniform from 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }

    /// Approximately normal, mean 0 and deviation 1: the sum of twelve uniform ones.
    pub fn gauss(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_repeat_and_have_their_mean_and_deviation() {
        let mut noise = Noise(7);
        let drawn: Vec<f64> = (0..20_000).map(|_| noise.gauss()).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let mut again = Noise(7);
        assert!(drawn.iter().all(|v| *v == again.gauss()));
    }
}
