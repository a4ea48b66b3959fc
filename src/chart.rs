//! A line chart, as SVG: what the examples draw their measurements with.
//!
//! A [`Chart`] is plain data, [`Chart::to_svg`] a pure function of it. An axis begins and
//! ends at a tick, and its ticks are round numbers:
//!
//! | axis | ticks |
//! |---|---|
//! | linear | about five, 1, 2 or 5 times a power of ten apart; 0 is on it |
//! | logarithmic | the powers of ten |
//!
//! The colours are those of Okabe and Ito, which readers who see fewer colours can
//! tell apart as well. Each series has a marker of its own, too, so the chart can be
//! printed in black.
//!
//! Left out: a point that has no place on its axis, such as 0 on a logarithmic one, is
//! not drawn, and the line goes on to the next one.

/// A chart of lines that share their axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows, above it.
    pub title: String,
    /// What grows to the right, with its unit.
    pub x_label: String,
    /// What grows upwards, with its unit.
    pub y_label: String,
    /// How x is laid out.
    pub x_scale: Scale,
    /// How y is laid out.
    pub y_scale: Scale,
    /// The lines; the legend has them in this order.
    pub series: Vec<Series>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, x and y, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// What equal lengths on an axis stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences.
    Linear,
    /// Equal ratios.
    Logarithmic,
}

// The plot, in pixels. Title and labels stand around it, the legend to its right.
const LEFT: f64 = 80.0;
const TOP: f64 = 48.0;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 360.0;
/// From one line of the legend to the next.
const LINE: f64 = 24.0;

const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Paths around the point that they mark. Their number and that of the colours have no
/// common divisor: only the 43rd series looks like the first.
const MARKERS: [&str; 6] = [
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "m-4 -4h8v8h-8z",
    "m0 -5l5 9h-10z",
    "m0 -6l5 6l-5 6l-5 -6z",
    "m0 5l5 -9h-10z",
    "m-5 -2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",
];

impl Chart {
    /// The chart as a whole SVG document.
    pub fn to_svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_axis = Axis::over(self.x_scale, points().map(|point| point.0));
        let y_axis = Axis::over(self.y_scale, points().map(|point| point.1));
        let x = |value| Some(LEFT + WIDTH * x_axis.place(value)?);
        let y = |value| Some(TOP + HEIGHT * (1.0 - y_axis.place(value)?));
        let (right, bottom, center) = (LEFT + WIDTH, TOP + HEIGHT, LEFT + WIDTH / 2.0);

        // Letters differ in width; few names are wider than 8 pixels a letter.
        let letters = self.series.iter().map(|series| series.name.chars().count());
        let width = right + 60.0 + 8.0 * letters.max().unwrap_or(0) as f64;
        let legend = TOP + LINE * self.series.len() as f64;
        let height = legend.max(bottom + 60.0);
        let mut lines = vec![
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" \
                 height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">"
            ),
            "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>".to_owned(),
            text(center, TOP - 20.0, "middle", &self.title),
            text(center, bottom + 46.0, "middle", &self.x_label),
            // Turned, so that it reads upwards beside its axis.
            format!(
                "<g transform=\"translate(20 {}) rotate(-90)\">{}</g>",
                TOP + HEIGHT / 2.0,
                text(0.0, 0.0, "middle", &self.y_label)
            ),
        ];
        for &tick in &x_axis.ticks {
            let Some(x) = x(tick) else { continue };
            lines.push(grid(x, TOP, x, bottom));
            lines.push(text(x, bottom + 20.0, "middle", &number(tick)));
        }
        for &tick in &y_axis.ticks {
            let Some(y) = y(tick) else { continue };
            lines.push(grid(LEFT, y, right, y));
            lines.push(text(LEFT - 8.0, y + 4.0, "end", &number(tick)));
        }
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let shape = MARKERS[index % MARKERS.len()];
            let marker = |x, y| format!("<path d=\"M{x:.1} {y:.1}{shape}\"/>");
            let places = series.points.iter().filter_map(|p| Some((x(p.0)?, y(p.1)?)));
            let places: Vec<(f64, f64)> = places.collect();
            let path: Vec<String> =
                places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let style = format!("stroke=\"{colour}\" fill=\"{colour}\"");
            lines.push(format!("<g stroke-width=\"2\" {style}>"));
            let path = path.join(" ");
            lines.push(format!("<polyline points=\"{path}\" fill=\"none\"/>"));
            lines.extend(places.iter().map(|&(x, y)| marker(x, y)));
            let y = TOP + LINE * (index as f64 + 0.5);
            lines.push(marker(right + 30.0, y));
            lines.push("</g>".to_owned());
            lines.push(text(right + 45.0, y + 4.0, "start", &series.name));
        }
        lines.push("</svg>\n".to_owned());
        lines.join("\n")
    }
}

/// What an axis shows; `low` and `high` are its ends, as logarithms on such an axis.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Where it has a label, as the values that are written there.
    ticks: Vec<f64>,
}

impl Axis {
    /// The shortest axis from tick to tick that has all these values.
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Axis {
        let values = values.filter_map(|value| scale.apply(value));
        let (low, high) = match scale {
            Scale::Linear => values.fold((0.0, 0.0), extend),
            Scale::Logarithmic => values.fold((f64::INFINITY, -f64::INFINITY), extend),
        };
        // Without any values, or with one, there is still an axis to be drawn.
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let step = match scale {
            Scale::Linear => round_step((high - low) / 5.0),
            Scale::Logarithmic => 1.0,
        };
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let ticks = (0..=(last - first) as usize).map(|i| (first + i as f64) * step);
        let ticks = ticks.map(|tick| match scale {
            Scale::Linear => tick,
            Scale::Logarithmic => 10_f64.powf(tick),
        });
        Axis { scale, low: first * step, high: last * step, ticks: ticks.collect() }
    }

    /// How far along the axis a value is, 0 to 1; `None` if it has no place there.
    fn place(&self, value: f64) -> Option<f64> {
        Some((self.scale.apply(value)? - self.low) / (self.high - self.low))
    }
}

impl Scale {
    fn apply(self, value: f64) -> Option<f64> {
        let applied = match self {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10(),
        };
        applied.is_finite().then_some(applied)
    }
}

fn extend((low, high): (f64, f64), value: f64) -> (f64, f64) {
    (low.min(value), high.max(value))
}

/// The next of 1, 2, 5, 10, 20, 50 ... that is not below `least`.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// A tick's label: 0.05, 200, 10,000.
fn number(value: f64) -> String {
    // As f32, since sums of steps may have an error far behind the point.
    let mut digits = (value as f32).to_string();
    let whole = digits.find('.').unwrap_or(digits.len());
    for place in (1..whole).rev().filter(|place| (whole - place).is_multiple_of(3)) {
        if !digits[..place].ends_with('-') {
            digits.insert(place, ',');
        }
    }
    digits
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
}

fn grid(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#dddddd\"/>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn chart(scale: Scale, series: &[(&str, &[(f64, f64)])]) -> String {
        let series = series.iter().map(|(name, points)| Series {
            name: name.to_string(),
            points: points.to_vec(),
        });
        Chart {
            title: "T".into(),
            x_label: "X".into(),
            y_label: "Y".into(),
            x_scale: scale,
            y_scale: scale,
            series: series.collect(),
        }
        .to_svg()
    }

    fn ticks(scale: Scale, values: &[f64]) -> String {
        let ticks = Axis::over(scale, values.iter().copied()).ticks;
        ticks.into_iter().map(number).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn linear_ticks_are_round_and_have_all_values_between_them() {
        assert_eq!(ticks(Scale::Linear, &[3.0, 97.0]), "0 20 40 60 80 100");
        assert_eq!(ticks(Scale::Linear, &[0.3, 0.11]), "0 0.1 0.2 0.3");
        assert_eq!(ticks(Scale::Linear, &[9100.0]), "0 2,000 4,000 6,000 8,000 10,000");
        assert_eq!(ticks(Scale::Linear, &[-1500.0, 500.0]), "-1,500 -1,000 -500 0 500");
        assert_eq!(ticks(Scale::Linear, &[0.0, f64::NAN]), "0 1");
    }

    #[test]
    fn logarithmic_ticks_are_the_powers_of_ten() {
        assert_eq!(ticks(Scale::Logarithmic, &[0.5, 20.0]), "0.1 1 10 100");
        assert_eq!(
            ticks(Scale::Logarithmic, &[100.0, 1e6]),
            "100 1,000 10,000 100,000 1,000,000"
        );
        assert_eq!(ticks(Scale::Logarithmic, &[10.0, 0.0, -1.0]), "10 100");
        assert_eq!(ticks(Scale::Logarithmic, &[]), "1 10");
    }

    #[test]
    fn points_stand_where_their_values_are() {
        let svg =
            chart(Scale::Linear, &[("a", &[(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)])]);
        assert!(svg.contains("points=\"80.0,408.0 320.0,48.0 560.0,228.0\""), "{svg}");
        // On logarithmic axes equal ratios are equal lengths, and 0 is nowhere.
        let decades = [(1.0, 100.0), (0.0, 3.0), (10.0, 10.0), (100.0, 1.0)];
        let svg = chart(Scale::Logarithmic, &[("a", &decades)]);
        assert!(svg.contains("points=\"80.0,48.0 320.0,228.0 560.0,408.0\""), "{svg}");
    }

    #[test]
    fn every_series_is_drawn_and_named_in_a_way_of_its_own() {
        let names: Vec<String> =
            (0..42).map(|index| format!("series {index}")).collect();
        let series: Vec<(&str, &[(f64, f64)])> =
            names.iter().map(|name| (name.as_str(), &[(1.0, 2.0)][..])).collect();
        let svg = chart(Scale::Linear, &series);
        let groups: Vec<&str> = svg.split("<g stroke-width=\"2\" ").skip(1).collect();
        // The colour, and the marker in the middle of the plot.
        let looks: BTreeSet<(&str, &str)> = groups
            .iter()
            .map(|group| (&group[..16], group.split("<path d=").nth(1).unwrap()))
            .collect();
        assert_eq!(looks.len(), names.len());
        for name in &names {
            assert!(svg.contains(&format!(">{name}</text>")), "{name}");
        }
    }

    #[test]
    fn what_is_opened_is_closed_and_no_name_is_markup() {
        let svg = chart(Scale::Linear, &[("a<b> & \"c\"", &[(1.0, 1.0)]), ("", &[])]);
        assert!(svg.contains(">a&lt;b&gt; &amp; \"c\"</text>"), "{svg}");
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1).map(|tag| tag.split('>').next().unwrap()) {
            let name = tag.split(' ').next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(name),
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }
}
