//! A line chart, as SVG: what the examples draw their measurements with.
//!
//! A [`Chart`] is plain data, [`Chart::to_svg`] a pure function of it. An axis begins and
//! ends at a tick, and its ticks are round numbers:
//!
//! | axis | ticks |
//! |---|---|
//! | linear | about five, 1, 2 or 5 times a power of ten apart; 0 is among them |
//! | logarithmic | the powers of ten |
//!
//! There is no background: text is dark, and light where the reader has chosen a dark theme;
//! the grid is of a grey that can be seen on both. The colours are those of Okabe and Ito, which readers who see fewer colours
//! can tell apart as well. Each series has its own marker, too, so that the chart can be
//! printed without colours.
//!
//! Left out: a point that has no place on its axis, such as 0 on a logarithmic one, is
//! not drawn, and the line continues at the next one.

/// A chart of lines that share their axes.
pub struct Chart {
    /// What grows upwards, with its unit: it stands above the axis.
    pub y_label: String,
    /// What grows to the right, with its unit.
    pub x_label: String,
    /// How both axes are laid out.
    pub scale: Scale,
    /// The lines; the legend has them in this order.
    pub series: Vec<Series>,
}

/// One line.
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, x and y, from left to right.
    pub points: Vec<(f64, f64)>,
    /// How far the values scatter around them: x, and from which y to which; or nothing.
    pub band: Vec<(f64, [f64; 2])>,
}

/// What equal lengths on an axis stand for.
#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    /// Equal differences.
    Linear,
    /// Equal ratios.
    #[allow(dead_code, reason = "the example `designs` draws it")]
    Logarithmic,
}

// The plot, in pixels. Labels and ticks stand around it, the legend to its right.
const TOP: f64 = 48.0;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 360.0;
/// From one line of the legend to the next.
const LINE: f64 = 24.0;
/// Room for a letter. Letters differ in width; few words need more than this for each.
const LETTER: f64 = 8.0;

/// Of the grid, and of text where styles are ignored.
const GREY: &str = "#777777";

/// Of text.
const STYLE: &str = "<style>svg{fill:#444}\
    @media(prefers-color-scheme:dark){svg{fill:#ccc}}</style>";

const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", GREY];

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
        let bands = self.series.iter().flat_map(|series| &series.band);
        let ys = points().map(|point| point.1).chain(bands.flat_map(|it| it.1));
        let x_axis = Axis::over(self.scale, points().map(|point| point.0));
        let y_axis = Axis::over(self.scale, ys);
        let left = 24.0 + widest(y_axis.ticks.iter().map(|&tick| number(tick)));
        let x = |value| Some(left + WIDTH * x_axis.place(value)?);
        let y = |value| Some(TOP + HEIGHT * (1.0 - y_axis.place(value)?));
        let (right, bottom) = (left + WIDTH, TOP + HEIGHT);

        let names = self.series.iter().map(|series| series.name.clone());
        let width = right + 60.0 + widest(names);
        let legend = TOP + LINE * self.series.len() as f64;
        let height = legend.max(bottom + 60.0);
        let mut lines = vec![
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" \
                 height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\" \
                 fill=\"{GREY}\">"
            ),
            STYLE.to_owned(),
            text(16.0, TOP - 20.0, "start", &self.y_label),
            text(left + WIDTH / 2.0, bottom + 46.0, "middle", &self.x_label),
        ];
        for &tick in &x_axis.ticks {
            let Some(x) = x(tick) else { continue };
            lines.push(grid(x, TOP, x, bottom));
            lines.push(text(x, bottom + 20.0, "middle", &number(tick)));
        }
        for &tick in &y_axis.ticks {
            let Some(y) = y(tick) else { continue };
            lines.push(grid(left, y, right, y));
            lines.push(text(left - 8.0, y + 4.0, "end", &number(tick)));
        }
        for (index, series) in self.series.iter().enumerate() {
            let places = series.points.iter().filter_map(|p| Some((x(p.0)?, y(p.1)?)));
            let places: Vec<(f64, f64)> = places.collect();
            // Along its lower edge, and back along the upper one.
            let edge = |end: usize| {
                let edge = series.band.iter();
                edge.filter_map(move |(at, ends)| Some((x(*at)?, y(ends[end])?)))
            };
            let band: Vec<_> = edge(0).chain(edge(1).rev()).collect();
            let y = TOP + LINE * (index as f64 + 0.5);
            lines.push(draw(index, &places, &band, (right + 30.0, y)));
            lines.push(text(right + 45.0, y + 4.0, "start", &series.name));
        }
        lines.push("</svg>\n".to_owned());
        lines.join("\n")
    }
}

/// A series: its band, its line, a marker at each point, and one in the legend.
fn draw(index: usize, places: &[Place], band: &[Place], legend: Place) -> String {
    let colour = COLOURS[index % COLOURS.len()];
    let shape = MARKERS[index % MARKERS.len()];
    let path = |places: &[Place]| {
        let path: Vec<String> =
            places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        path.join(" ")
    };
    let (line, band) = (path(places), path(band));
    let mut lines = vec![
        format!("<g stroke-width=\"2\" stroke=\"{colour}\" fill=\"{colour}\">"),
        format!("<polygon points=\"{band}\" stroke=\"none\" fill-opacity=\"0.2\"/>"),
        format!("<polyline points=\"{line}\" fill=\"none\"/>"),
    ];
    if band.is_empty() {
        lines.remove(1);
    }
    for (x, y) in places.iter().chain([&legend]) {
        lines.push(format!("<path d=\"M{x:.1} {y:.1}{shape}\"/>"));
    }
    lines.push("</g>".to_owned());
    lines.join("\n")
}

/// On the picture, in pixels.
type Place = (f64, f64);

/// What an axis shows: from the first of its ticks to the last.
struct Axis {
    scale: Scale,
    ticks: Vec<f64>,
}

impl Axis {
    /// The shortest axis from tick to tick that has all these values.
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Axis {
        let zero = (scale == Scale::Linear).then_some(0.0);
        let values: Vec<f64> =
            values.filter_map(|value| scale.apply(value)).chain(zero).collect();
        // Without any values there is still an axis to be drawn.
        let low = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let high = values.iter().copied().reduce(f64::max).unwrap_or(1.0);
        let is_fine = scale == Scale::Linear && low < high;
        let step = if is_fine { round_step((high - low) / 5.0) } else { 1.0 };
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let ticks = (first as i64..=last as i64).map(|tick| match scale {
            Scale::Linear => tick as f64 * step,
            Scale::Logarithmic => 10_f64.powf(tick as f64),
        });
        Axis { scale, ticks: ticks.collect() }
    }

    /// How far along the axis a value is, 0 to 1; `None` if it has no place there.
    fn place(&self, value: f64) -> Option<f64> {
        let first = self.scale.apply(*self.ticks.first()?)?;
        let last = self.scale.apply(*self.ticks.last()?)?;
        Some((self.scale.apply(value)? - first) / (last - first))
    }
}

impl Scale {
    fn apply(self, value: f64) -> Option<f64> {
        let applied = if self == Scale::Linear { value } else { value.log10() };
        applied.is_finite().then_some(applied)
    }
}

/// The next of 1, 2, 5, 10, 20, 50 ... that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// A tick's label: 0.05, 200, 10,000.
fn number(value: f64) -> String {
    // As f32: sums of steps may have a small error.
    let mut digits = (value as f32).to_string();
    let whole = digits.find('.').unwrap_or(digits.len());
    for place in (1..whole).rev().filter(|place| (whole - place).is_multiple_of(3)) {
        digits.insert(place, ',');
    }
    digits
}

/// Room for the longest of these texts.
fn widest(texts: impl Iterator<Item = String>) -> f64 {
    LETTER * texts.map(|text| text.chars().count()).max().unwrap_or(0) as f64
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
}

fn grid(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    let style = format!("stroke=\"{GREY}\" stroke-opacity=\"0.3\"");
    format!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" {style}/>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn chart(scale: Scale, series: &[(&str, &[(f64, f64)])]) -> String {
        let series = series.iter().map(|(name, points)| Series {
            name: name.to_string(),
            points: points.to_vec(),
            band: Vec::new(),
        });
        Chart {
            y_label: "Y".into(),
            x_label: "X".into(),
            scale,
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
        assert_eq!(ticks(Scale::Linear, &[-15.0, 5.0]), "-15 -10 -5 0 5");
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
        assert!(svg.contains("points=\"40.0,408.0 280.0,48.0 520.0,228.0\""), "{svg}");
        // On logarithmic axes equal ratios are equal lengths, and 0 is nowhere.
        let decades = [(1.0, 100.0), (0.0, 3.0), (10.0, 10.0), (100.0, 1.0)];
        let svg = chart(Scale::Logarithmic, &[("a", &decades)]);
        assert!(svg.contains("points=\"48.0,48.0 288.0,228.0 528.0,408.0\""), "{svg}");
    }

    #[test]
    fn a_band_lies_around_its_line_and_has_room_on_the_axis() {
        let (points, band) = (vec![(0.0, 5.0), (10.0, 5.0)], vec![]);
        let mut series = Series { name: "a".into(), points, band };
        series.band = vec![(0.0, [2.5, 5.0]), (10.0, [5.0, 10.0])];
        let (y_label, x_label, scale) = ("Y".into(), "X".into(), Scale::Linear);
        let svg = Chart { y_label, x_label, scale, series: vec![series] }.to_svg();
        let polygon =
            "<polygon points=\"40.0,318.0 520.0,228.0 520.0,48.0 40.0,228.0\"";
        assert!(svg.contains(polygon), "{svg}");
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
