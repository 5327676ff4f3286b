//! Bytes that reveal a loss, a duplicate or a swap.

use anyhow::{Result, bail};

/// A stream of random bytes that can be read from any position.
///
/// No part of it repeats. So if an echo loses, duplicates or swaps a byte, or returns a byte of
/// another connection, it differs from the stream at that position.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
}

/// Bytes generated from one state of the random number generator.
const BLOCK: usize = 4096;

impl Pattern {
    /// The stream with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `bytes` with the stream from `start` on.
    pub fn fill(self, start: u64, bytes: &mut [u8]) {
        let mut position = start;
        let mut rest = bytes;
        while !rest.is_empty() {
            let block = self.block(position / BLOCK as u64);
            let available = &block[position as usize % BLOCK..];
            let count = available.len().min(rest.len());
            let (first, remaining) = rest.split_at_mut(count);
            first.copy_from_slice(&available[..count]);
            position += count as u64;
            rest = remaining;
        }
    }

    /// The first `count` bytes of the stream.
    #[must_use]
    pub fn first(self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Checks that `bytes` are the stream from `start` on.
    pub fn check(self, start: u64, bytes: &[u8]) -> Result<()> {
        let mut expected = vec![0; bytes.len()];
        self.fill(start, &mut expected);
        if bytes == expected {
            return Ok(());
        }
        let right = bytes.iter().zip(&expected).take_while(|(got, sent)| got == sent).count();
        bail!("byte {} that came back differs from the byte sent", start + right as u64)
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

    fn part() -> Vec<u8> {
        let mut bytes = vec![0; 1000];
        Pattern::new(7).fill(START, &mut bytes);
        bytes
    }

    fn error(bytes: &[u8]) -> Option<String> {
        Pattern::new(7).check(START, bytes).err().map(|error| error.to_string())
    }

    #[test]
    fn is_the_same_from_every_position() {
        let all = Pattern::new(7).first(3 * BLOCK + 500);
        assert_eq!(&all[START as usize..], part());
        assert_eq!(error(&part()), None);
    }

    #[test]
    fn reveals_a_loss_a_duplicate_and_a_swap() {
        let position = part().windows(2).position(|two| two[0] != two[1]).unwrap_or(0);
        let expected = |offset| {
            let at = START + offset as u64;
            Some(format!("byte {at} that came back differs from the byte sent"))
        };

        let mut lost = part();
        lost.remove(position);
        assert_eq!(error(&lost), expected(position));

        let mut duplicated = part();
        duplicated.insert(position, duplicated[position]);
        assert_eq!(error(&duplicated), expected(position + 1));

        let mut swapped = part();
        swapped.swap(position, position + 1);
        assert_eq!(error(&swapped), expected(position));
    }

    #[test]
    fn differs_between_connections() {
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
