//! `/factor N`: a command whose cost the client chooses.

use std::fmt::Write;

/// The largest number that `/factor` accepts: 15 digits. Its trial division takes up to 16 million
/// steps, some tens of milliseconds.
pub const MAX_NUMBER: u64 = 999_999_999_999_999;

/// Work that a line asks for. It must not run while the room is locked, because nobody else could
/// use the room meanwhile: see [`Room::input`](super::Room::input).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computation {
    number: u64,
}

impl Computation {
    /// Reads the argument of `/factor`. Returns `None` if it is not a number from 2 to
    /// [`MAX_NUMBER`].
    pub(super) fn parse(argument: &str) -> Option<Self> {
        if argument.len() > 15 || !argument.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = argument.parse().ok()?;
        (number >= 2).then_some(Self { number })
    }

    /// Factors the number by trial division, and returns the reply: `12 = 2 · 2 · 3`.
    #[must_use]
    pub fn run(self) -> String {
        let mut reply = format!("{} = ", self.number);
        for (index, prime) in prime_factors(self.number).into_iter().enumerate() {
            let separator = if index == 0 { "" } else { " · " };
            let _ = write!(reply, "{separator}{prime}"); // writing to a `String` does not fail
        }
        reply
    }
}

/// Returns the prime factors of `number`, in ascending order.
fn prime_factors(mut number: u64) -> Vec<u64> {
    let mut primes = Vec::new();
    let mut divisor = 2;
    while divisor * divisor <= number {
        while number % divisor == 0 {
            primes.push(divisor);
            number /= divisor;
        }
        divisor += if divisor == 2 { 1 } else { 2 };
    }
    if number > 1 {
        primes.push(number);
    }
    primes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_of_the_factors_is_the_number() {
        for number in 2..10_000 {
            let primes = prime_factors(number);
            assert_eq!(primes.iter().product::<u64>(), number);
            assert!(primes.is_sorted());
            let is_prime = |prime: u64| (2..prime).all(|divisor| prime % divisor != 0);
            assert!(primes.into_iter().all(is_prime), "factors of {number}");
        }
    }

    #[test]
    fn large_numbers() {
        let reply = |number| Computation { number }.run();
        assert_eq!(reply(999_999_999_999_989), "999999999999989 = 999999999999989");
        assert_eq!(reply(998_244_353 * 1_000_003), "998247347733059 = 1000003 · 998244353");
        assert_eq!(reply(1 << 49), format!("{} = {}", 1_u64 << 49, ["2"; 49].join(" · ")));
    }

    #[test]
    fn the_argument_is_at_least_2_and_at_most_15_digits_long() {
        for (argument, number) in [("2", 2), ("007", 7), ("999999999999999", MAX_NUMBER)] {
            assert_eq!(Computation::parse(argument), Some(Computation { number }));
        }
        for wrong in ["", "0", "1", "-5", "+5", "1.5", "1e3", "ten", "٣", "7 8", "1000000000000000"]
        {
            assert_eq!(Computation::parse(wrong), None, "{wrong:?}");
        }
    }
}
