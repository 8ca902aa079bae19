//! Log lines, as text in Kafka's layout or as JSON.
//!
//! `[2025-04-02 16:59:09,621] INFO Created topic 'orders' topic=orders (chronik_broker::api::create_topics)`
//!
//! Times are UTC. Lines go to standard output, where containers and service managers collect them.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use chronik_types::TimestampMs;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry, reload};

use crate::clock::Clock;
use crate::config::{LogFilter, LogFormat};
use crate::loggers::ProcessLoggers;

/// Sets up logging for the whole process. Only the first call has an effect. Gives what changes the levels later.
pub fn start(filter: &LogFilter, format: LogFormat, clock: Clock) -> ProcessLoggers {
    let (subscriber, loggers) = reloadable(filter, Lines { format, clock, write: write_to_stdout });
    // A test in the same process may have been first.
    drop(tracing::subscriber::set_global_default(subscriber));
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?").to_owned();
        tracing::error!("Thread '{name}' panicked: {panic}");
    }));
    loggers
}

/// What writes the lines that the filter lets through, and what changes the filter.
fn reloadable<W: Fn(&str) + Send + Sync + 'static>(
    filter: &LogFilter,
    lines: Lines<W>,
) -> (impl Subscriber + Send + Sync + 'static, ProcessLoggers) {
    let (filter_layer, handle) = reload::Layer::<_, Registry>::new(filter.0.clone());
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter_layer));
    let reload = move |filter| {
        if let Err(error) = handle.reload(filter) {
            tracing::warn!(%error, "cannot change log levels");
        }
    };
    (subscriber, ProcessLoggers::new(&filter.0, Box::new(reload)))
}

fn write_to_stdout(line: &str) {
    // Nothing better can be done about a log that cannot be written than to go on.
    drop(io::stdout().lock().write_all(line.as_bytes()));
}

struct Lines<W> {
    format: LogFormat,
    clock: Clock,
    write: W,
}

impl<S: Subscriber, W: Fn(&str) + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let now = self.clock.now().wall;
        let line = match self.format {
            LogFormat::Text => text_line(now, event),
            LogFormat::Json => json_line(now, event),
        };
        (self.write)(&line);
    }
}

fn text_line(now: TimestampMs, event: &Event<'_>) -> String {
    let mut fields = TextFields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let time = DateTime::of(now);
    // One event is one line, whatever clients put into the names that it shows.
    let message = fields.message.replace(['\n', '\r'], " ");
    format!("[{time}] {} {message}{} ({})\n", metadata.level(), fields.others, metadata.target())
}

#[derive(Default)]
struct TextFields {
    message: String,
    others: String,
}

impl TextFields {
    fn put(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            let value = value.replace(['\n', '\r'], " ");
            write!(self.others, " {}={value}", field.name()).expect("writing to a String cannot fail");
        }
    }
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

fn json_line(now: TimestampMs, event: &Event<'_>) -> String {
    let metadata = event.metadata();
    let time = DateTime::of(now);
    let mut fields = JsonFields(serde_json::Map::new());
    fields.0.insert("timestamp".to_owned(), time.rfc3339().into());
    fields.0.insert("level".to_owned(), metadata.level().as_str().into());
    fields.0.insert("target".to_owned(), metadata.target().into());
    event.record(&mut fields);
    let mut line = serde_json::Value::Object(fields.0).to_string();
    line.push('\n');
    line
}

struct JsonFields(serde_json::Map<String, serde_json::Value>);

impl Visit for JsonFields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

/// A moment in UTC, by the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DateTime {
    year: i64,
    month: i64,
    day: i64,
    ms_of_day: i64,
}

const DAY_MS: i64 = 86_400_000;

impl DateTime {
    fn of(time: TimestampMs) -> Self {
        let days = time.0.div_euclid(DAY_MS);
        // Counting years from March puts the leap day at the end of a year, and eras of 400 years are all of the
        // same length. 719,468 days lie between 0000-03-01 and 1970-01-01.
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self { year, month, day, ms_of_day: time.0.rem_euclid(DAY_MS) }
    }

    fn time(self) -> (i64, i64, i64, i64) {
        let ms = self.ms_of_day;
        (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
    }

    fn rfc3339(self) -> String {
        let Self { year, month, day, .. } = self;
        let (hour, minute, second, ms) = self.time();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

/// As Kafka writes it.
impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, .. } = self;
        let (hour, minute, second, ms) = self.time();
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{ms:03}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chronik_broker::config::{LogLevel, Loggers as _, ROOT_LOGGER};
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn dates() {
        for (ms, expected) in [
            (0, "1970-01-01 00:00:00,000"),
            (1_743_613_149_621, "2025-04-02 16:59:09,621"),
            (951_782_399_999, "2000-02-28 23:59:59,999"),
            (951_782_400_000, "2000-02-29 00:00:00,000"),
            (951_868_800_000, "2000-03-01 00:00:00,000"),
            (4_107_542_400_000, "2100-03-01 00:00:00,000"),
            (4_107_542_399_999, "2100-02-28 23:59:59,999"),
            (1_735_689_599_000, "2024-12-31 23:59:59,000"),
            (-1, "1969-12-31 23:59:59,999"),
        ] {
            assert_eq!(DateTime::of(TimestampMs(ms)).to_string(), expected);
        }
        assert_eq!(DateTime::of(TimestampMs(1_743_613_149_621)).rfc3339(), "2025-04-02T16:59:09.621Z");
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let write = move |line: &str| sink.lock().push(line.to_owned());
        let filter: tracing_subscriber::filter::Targets = filter.parse().expect("a filter");
        let layer = Lines { format, clock: Clock::start(), write }.with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let lines = lines.lock();
        lines.clone()
    }

    #[test]
    fn text_lines_look_like_kafkas() {
        let lines = logged(LogFormat::Text, "info", || {
            tracing::info!(topic = "orders", partition = 3, "Created topic '{}'", "or\nders");
            tracing::debug!("not shown");
            tracing::warn!(target: "there", "careful");
        });
        let [first, second] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(first.starts_with("[20") && first.as_bytes()[24] == b']', "{first}");
        assert_eq!(
            first.split_once("] ").map(|(_, rest)| rest),
            Some("INFO Created topic 'or ders' topic=orders partition=3 (chronik_server::logging::tests)\n")
        );
        assert!(second.ends_with("] WARN careful (there)\n"), "{second}");
    }

    #[test]
    fn levels_change_at_once() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let write = move |line: &str| sink.lock().push(line.to_owned());
        let filter = LogFilter("info".parse().expect("a filter"));
        let lines_layer = Lines { format: LogFormat::Text, clock: Clock::start(), write };
        let (subscriber, loggers) = reloadable(&filter, lines_layer);
        let shown = || std::mem::take(&mut *lines.lock()).len();
        let set = |name: &str, level| loggers.set(&[(name.to_owned(), level)]);
        tracing::subscriber::with_default(subscriber, || {
            let log = || {
                tracing::debug!(target: "chronik_broker::groups", "quiet");
                tracing::error!(target: "chronik_log", "loud");
            };
            log();
            assert_eq!(shown(), 1);
            set("chronik_broker", Some(LogLevel::Debug));
            shown();
            log();
            assert_eq!(shown(), 2);
            set(ROOT_LOGGER, Some(LogLevel::Off));
            log();
            assert_eq!(shown(), 1);
            set("chronik_broker", None);
            log();
            assert_eq!(shown(), 0);
        });
    }

    #[test]
    fn json_lines_are_objects() {
        let lines = logged(LogFormat::Json, "warn,there=trace", || {
            tracing::trace!(target: "there", count = 7, yes = true, name = "a\"b", "line\n2");
            tracing::info!("not shown");
        });
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["level"], "TRACE");
        assert_eq!(value["message"], "line\n2");
        assert_eq!(value["count"], 7);
        assert_eq!(value["yes"], true);
        assert_eq!(value["name"], "a\"b");
        assert_eq!(value["target"], "there");
    }
}
