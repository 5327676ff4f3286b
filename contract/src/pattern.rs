//! Bytes that show a loss, a doubling and a swap.

use anyhow::{Result, bail};

/// A stream of random bytes that can be read from anywhere.
///
/// No stretch of it repeats, so an echo that differs from it in anything (a byte lost, doubled,
/// swapped, or another connection's) differs from there on.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
}

/// Bytes that come from one state of the generator.
const BLOCK: usize = 4096;

impl Pattern {
    /// The stream with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `bytes` with what the stream has from `start` on.
    pub fn fill(self, start: u64, bytes: &mut [u8]) {
        let mut at = start;
        let mut rest = bytes;
        while !rest.is_empty() {
            let block = self.block(at / BLOCK as u64);
            let from_here = &block[at as usize % BLOCK..];
            let count = from_here.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&from_here[..count]);
            at += count as u64;
            rest = later;
        }
    }

    /// The first `count` bytes of the stream.
    #[must_use]
    pub fn first(self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Whether `bytes` are what the stream has from `start` on.
    pub fn check(self, start: u64, bytes: &[u8]) -> Result<()> {
        let mut expected = vec![0; bytes.len()];
        self.fill(start, &mut expected);
        if bytes == expected {
            return Ok(());
        }
        let right = bytes.iter().zip(&expected).take_while(|(got, sent)| got == sent).count();
        bail!("byte {} came back as another than was sent", start + right as u64)
    }

    fn block(self, number: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut seeds = fastrand::Rng::with_seed(self.seed);
        fastrand::Rng::with_seed(seeds.u64(..) ^ number).fill(&mut block);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 3 * BLOCK as u64 - 500;

    fn stretch() -> Vec<u8> {
        let mut bytes = vec![0; 1000];
        Pattern::new(7).fill(START, &mut bytes);
        bytes
    }

    fn wrong_at(bytes: &[u8]) -> Option<String> {
        Pattern::new(7).check(START, bytes).err().map(|error| error.to_string())
    }

    #[test]
    fn is_the_same_from_wherever_it_is_read() {
        let whole = Pattern::new(7).first(3 * BLOCK + 500);
        assert_eq!(&whole[START as usize..], stretch());
        assert_eq!(wrong_at(&stretch()), None);
    }

    #[test]
    fn shows_a_loss_a_doubling_and_a_swap() {
        let position = stretch().windows(2).position(|two| two[0] != two[1]).unwrap_or(0);
        let expected = |offset| {
            let at = START + offset as u64;
            Some(format!("byte {at} came back as another than was sent"))
        };

        let mut lost = stretch();
        lost.remove(position);
        assert_eq!(wrong_at(&lost), expected(position));

        let mut doubled = stretch();
        doubled.insert(position, doubled[position]);
        assert_eq!(wrong_at(&doubled), expected(position + 1));

        let mut swapped = stretch();
        swapped.swap(position, position + 1);
        assert_eq!(wrong_at(&swapped), expected(position));
    }

    #[test]
    fn tells_connections_apart() {
        let other = Pattern::new(8).first(1000);
        assert!(Pattern::new(7).check(0, &other).is_err());
    }

    #[test]
    fn repeats_no_block() {
        let pattern = Pattern::new(7);
        let mut blocks: Vec<_> = (0..1000).map(|number| pattern.block(number)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), 1000);
    }
}
