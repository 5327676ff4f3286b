//! The time axis of a panel. It is not to scale: each label gets the width that it needs, and what
//! is left goes to the longest stretches of time.

use std::ops::Range;

use crate::strace::Nanos;

/// A stretch in which nothing begins or ends for this long is cut, and the cut is marked.
pub const QUIET: Nanos = 1_000_000;
/// The width of the mark of a cut.
pub const CUT: f64 = 14.0;
/// The smallest width of a stretch that is cut. Its duration is printed below it.
const QUIET_WIDTH: f64 = 46.0;
/// The largest width that a stretch gets because of its duration.
const MAX_WIDTH: f64 = 90.0;
const MIN_WIDTH: f64 = 1.2;

/// A width that the time between two points must have.
#[derive(Clone, Copy, Debug)]
pub struct MinWidth {
    pub from: Nanos,
    pub to: Nanos,
    pub width: f64,
    /// If the room is not enough, those with the highest rank are dropped first. Rank 0 is never
    /// dropped.
    pub rank: u8,
}

/// Points in time, and where they are drawn.
#[derive(Debug)]
pub struct Axis {
    times: Vec<Nanos>,
    places: Vec<f64>,
}

/// A minimum width, as a range of the axis's stretches.
type Requirement = (usize, usize, MinWidth);

impl Axis {
    /// Distributes `times` from `left` over `width`.
    pub fn new(mut times: Vec<Nanos>, minimums: &[MinWidth], left: f64, width: f64) -> Self {
        times.sort_unstable();
        times.dedup();
        let durations: Vec<Nanos> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let stretch = |time: Nanos| times.partition_point(|&other| other < time);
        let mut required: Vec<Requirement> = (minimums.iter())
            .map(|it| (stretch(it.from), stretch(it.to).min(durations.len()), *it))
            .filter(|(from, to, _)| from < to)
            .collect();
        // The shortest first: what they get also counts for the longer ones that contain them.
        required.sort_by_key(|&(from, to, _)| to - from);
        let mut widths = satisfy(&durations, &required);
        while widths.iter().sum::<f64>() > width {
            let Some(index) = least_important(&required) else { break };
            required.remove(index);
            widths = satisfy(&durations, &required);
        }
        fill(&mut widths, &durations, width);
        let mut places = vec![left];
        let mut place = left;
        for width in widths {
            place += width;
            places.push(place);
        }
        Self { times, places }
    }

    /// Returns where `time` is drawn; between two points in proportion.
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

    /// Returns the duration, the start and the end of each stretch.
    pub fn stretches(&self) -> impl Iterator<Item = (Nanos, f64, f64)> + '_ {
        let pairs = self.times.windows(2).zip(self.places.windows(2));
        pairs.map(|(times, places)| (times[1] - times[0], places[0], places[1]))
    }

    /// Returns where the marks of the cuts are.
    pub fn cuts(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let is_cut =
            |&(duration, from, to): &(Nanos, f64, f64)| duration >= QUIET && to - from > CUT + 4.0;
        self.stretches().filter(is_cut).map(|(_, _, to)| (to - CUT - 3.0, to - 7.0))
    }

    /// Returns the parts between `from` and `to` that contain no mark of a cut.
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

/// Returns the index of the requirement to drop: of those with the highest rank the widest, so
/// that few have to be dropped.
fn least_important(required: &[Requirement]) -> Option<usize> {
    let droppable = required.iter().enumerate().filter(|(_, (.., it))| it.rank > 0);
    let last = droppable
        .max_by(|(_, (.., a)), (_, (.., b))| a.rank.cmp(&b.rank).then(a.width.total_cmp(&b.width)));
    last.map(|(index, _)| index)
}

/// Returns the smallest widths that satisfy all requirements.
fn satisfy(durations: &[Nanos], required: &[Requirement]) -> Vec<f64> {
    let minimum = |&duration: &Nanos| if duration >= QUIET { QUIET_WIDTH } else { MIN_WIDTH };
    let mut widths: Vec<f64> = durations.iter().map(minimum).collect();
    for &(from, to, MinWidth { width, .. }) in required {
        let lack = width - widths[from..to].iter().sum::<f64>();
        if lack > 0.0 {
            // The longest stretch gets it, because a little more is least visible there.
            let longest = (from..to).max_by_key(|&index| durations[index]).unwrap_or(from);
            widths[longest] += lack;
        }
    }
    widths
}

/// Distributes what is left of `width`: the longest stretches first.
fn fill(widths: &mut [f64], durations: &[Nanos], width: f64) {
    let at_scale = |scale: f64| -> Vec<f64> {
        let wished = |duration: Nanos| (duration as f64 * scale).min(MAX_WIDTH);
        let pairs = widths.iter().zip(durations);
        pairs.map(|(&minimum, &duration)| minimum.max(wished(duration))).collect()
    };
    // Bisection for the largest scale that fits.
    let mut low = 0.0;
    let mut high = 1.0;
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_scale(middle).iter().sum::<f64>() > width {
            high = middle;
        } else {
            low = middle;
        }
    }
    let scaled = at_scale(low);
    widths.copy_from_slice(&scaled);
    // What is still missing or too much is shared by all stretches.
    let factor = width / widths.iter().sum::<f64>();
    for each in widths {
        *each *= factor;
    }
}

/// Returns the width of `text` in `DejaVu Sans`, which is wider than the other fonts that a reader
/// is likely to have.
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
