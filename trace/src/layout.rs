//! From time to place: everything that is drawn gets the width that its label needs, in the order
//! of time, and what is left goes to what lasted longest.

use std::ops::Range;

use crate::strace::Nanos;

/// A stretch in which nothing begins or ends for so long is cut, and marked.
pub const QUIET: Nanos = 1_000_000;
/// What a cut takes of the width: its mark.
pub const CUT: f64 = 14.0;
/// The least width of a stretch that is cut: how long it was stands below it.
const QUIET_WIDTH: f64 = 46.0;
/// The greatest width that a stretch gets for having lasted long.
const WIDEST: f64 = 90.0;
const NARROWEST: f64 = 1.2;

/// Something that wants to be `width` wide.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    pub from: Nanos,
    pub to: Nanos,
    pub width: f64,
    /// The highest ones go first where there is not enough room; 0 never does.
    pub rank: u8,
}

/// Points in time, and where they are drawn.
#[derive(Debug)]
pub struct Axis {
    times: Vec<Nanos>,
    places: Vec<f64>,
}

impl Axis {
    /// Spreads `times` from `left` on over `width`.
    pub fn new(mut times: Vec<Nanos>, wants: &[Want], left: f64, width: f64) -> Self {
        times.sort_unstable();
        times.dedup();
        let lengths: Vec<Nanos> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let at = |time: Nanos| times.partition_point(|&other| other < time);
        let mut wants: Vec<(usize, usize, Want)> = (wants.iter())
            .map(|want| (at(want.from), at(want.to).min(lengths.len()), *want))
            .filter(|(from, to, _)| from < to)
            .collect();
        // The shortest first: what they get counts for the longer ones that they are part of.
        wants.sort_by_key(|&(from, to, _)| to - from);
        let mut widths = satisfy(&lengths, &wants);
        while widths.iter().sum::<f64>() > width {
            // The least important; and among those the widest, so that few have to go.
            let last = (wants.iter().enumerate()).filter(|(_, (.., want))| want.rank > 0).max_by(
                |(_, (.., a)), (_, (.., b))| a.rank.cmp(&b.rank).then(a.width.total_cmp(&b.width)),
            );
            let Some((last, _)) = last else { break };
            wants.remove(last);
            widths = satisfy(&lengths, &wants);
        }
        fill(&mut widths, &lengths, width);
        let mut places = vec![left];
        let mut place = left;
        for width in widths {
            place += width;
            places.push(place);
        }
        Self { times, places }
    }

    /// Where `time` is; between two points by proportion.
    pub fn place(&self, time: Nanos) -> f64 {
        let after = self.times.partition_point(|&other| other <= time);
        if after == 0 {
            return self.places[0];
        }
        let (t0, x0) = (self.times[after - 1], self.places[after - 1]);
        match (self.times.get(after), self.places.get(after)) {
            (Some(&t1), Some(&x1)) => x0 + (x1 - x0) * (time - t0) as f64 / (t1 - t0) as f64,
            _ => x0,
        }
    }

    /// The stretches between the points: how long they are, from where to where.
    pub fn stretches(&self) -> impl Iterator<Item = (Nanos, f64, f64)> + '_ {
        let pairs = self.times.windows(2).zip(self.places.windows(2));
        pairs.map(|(times, places)| (times[1] - times[0], places[0], places[1]))
    }

    /// Where the marks of the cuts are.
    pub fn cuts(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let quiet =
            self.stretches().filter(|&(length, from, to)| length >= QUIET && to - from > CUT + 4.0);
        quiet.map(|(_, _, to)| (to - CUT - 3.0, to - 7.0))
    }

    /// The parts between `from` and `to` that hold no mark of a cut.
    pub fn free(&self, from: f64, to: f64) -> Vec<Range<f64>> {
        let mut parts = Vec::new();
        let mut start = from;
        for (cut_from, cut_to) in self.cuts().chain([(f64::INFINITY, f64::INFINITY)]) {
            let end = cut_from.min(to);
            if end > start {
                parts.push(start..end);
            }
            start = start.max(cut_to);
        }
        parts
    }
}

/// The least widths with which all `wants` are satisfied.
fn satisfy(lengths: &[Nanos], wants: &[(usize, usize, Want)]) -> Vec<f64> {
    let least = |&length: &Nanos| if length >= QUIET { QUIET_WIDTH } else { NARROWEST };
    let mut widths: Vec<f64> = lengths.iter().map(least).collect();
    for &(from, to, want) in wants {
        let lack = want.width - widths[from..to].iter().sum::<f64>();
        if lack > 0.0 {
            // To the longest of its stretches: nobody sees that it is drawn a little longer yet.
            let longest = (from..to).max_by_key(|&index| lengths[index]).unwrap_or(from);
            widths[longest] += lack;
        }
    }
    widths
}

/// Gives what is left of `width` to the stretches, to the long ones first.
fn fill(widths: &mut [f64], lengths: &[Nanos], width: f64) {
    let stretched = |scale: f64| -> Vec<f64> {
        let wish = |length: Nanos| (length as f64 * scale).min(WIDEST);
        widths.iter().zip(lengths).map(|(&least, &length)| least.max(wish(length))).collect()
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if stretched(middle).iter().sum::<f64>() > width {
            high = middle;
        } else {
            low = middle;
        }
    }
    let result = stretched(low);
    widths.copy_from_slice(&result);
    // Whatever the rounding or the lack of room has left: the same for all.
    let factor = width / widths.iter().sum::<f64>();
    for each in widths {
        *each *= factor;
    }
}

/// How wide `text` is in most fonts, at most: `DejaVu Sans`, which is wider than the others that a
/// reader may have.
pub fn text_width(text: &str, size: f64) -> f64 {
    /// Thousandths of the size, from the space to the tilde.
    const WIDTHS: [u16; 95] = [
        318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636,
        636, 636, 636, 636, 636, 636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698,
        770, 632, 575, 775, 752, 295, 295, 656, 557, 863, 748, 787, 603, 787, 695, 635, 611, 732,
        684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635, 615, 352, 635,
        634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592,
        525, 636, 337, 636, 838,
    ];
    let width = |c: char| (c as usize).checked_sub(32).and_then(|c| WIDTHS.get(c)).copied();
    text.chars().map(|c| f64::from(width(c).unwrap_or(1000))).sum::<f64>() * size / 1000.0
}
