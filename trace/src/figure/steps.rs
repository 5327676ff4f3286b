//! The numbers of the steps, and how they avoid the arrows.

use std::ops::Range;

use svg::node::element::Group;

use crate::style::{Arrow, spot, text};

/// The radius of a number.
pub const RADIUS: f64 = 7.5;

pub fn step_number(x: f64, y: f64, number: &str) -> Group {
    let number = text("step-number", "middle", x, y + 3.8, number);
    Group::new().add(spot("step", x, y, RADIUS)).add(number)
}

/// Returns where the number stands above its `bar`, whose top is at `y`: at the start of the bar,
/// or at its end, or further inside if an arrow crosses it there.
pub fn place_step(bar: Range<f64>, at_end: bool, y: f64, arrows: &[Arrow]) -> f64 {
    let (low, high) = (bar.start + RADIUS + 0.5, bar.end - RADIUS - 0.5);
    let shifts = (0..).map(|step| f64::from(step) * 3.0).take_while(|shift| low + shift <= high);
    let mut places = shifts.map(|shift| if at_end { high - shift } else { low + shift });
    let is_free = |at: &f64| {
        let corner = (at - RADIUS, y - 9.0 - RADIUS);
        let opposite = (at + RADIUS, y - 9.0 + RADIUS);
        !arrows.iter().any(|arrow| arrow.crosses(corner, opposite))
    };
    places.find(is_free).unwrap_or(if at_end { high } else { low })
}
