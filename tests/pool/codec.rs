//! Values that cannot be encoded or decoded, on either side, as arguments, results, items and
//! contexts.

use common::{alone, failure, in_time, pool_of, square};
use procpool::{Error, ErrorKind, ProcessPoolExecutor, Result, current_worker};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// A value that makes trouble when it is encoded or decoded, here or there.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Awkward {
    value: u64,
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Trouble {
    step: Step,
    side: Side,
    sort: Sort,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Step {
    Encoding,
    Decoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Side {
    Pool,
    Worker,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Sort {
    Error,
    LongError,
    Panic,
}

impl Trouble {
    fn new(step: Step, side: Side, sort: Sort) -> Self {
        Self { step, side, sort }
    }

    /// What goes wrong at this step on this side.
    fn happens(self, step: Step) -> Option<String> {
        let is_here = (self.side == Side::Worker) == current_worker().is_some();
        (self.step == step && is_here).then(|| match self.sort {
            Sort::Error => format!("it made trouble in {step:?}"),
            Sort::LongError => "it made trouble ".repeat(1 << 16),
            Sort::Panic => panic!("it fell over in {step:?}"),
        })
    }
}

impl Serialize for Awkward {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.trouble.and_then(|it| it.happens(Step::Encoding)) {
            Some(text) => Err(ser::Error::custom(text)),
            None => (self.value, self.trouble).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (value, trouble): (_, Option<Trouble>) = Deserialize::deserialize(deserializer)?;
        match trouble.and_then(|it| it.happens(Step::Decoding)) {
            Some(text) => Err(de::Error::custom(text)),
            None => Ok(Self { value, trouble }),
        }
    }
}

/// A task with an awkward argument.
fn value_of(awkward: Awkward) -> u64 {
    awkward.value
}

/// A task with an awkward result.
fn make(trouble: Option<Trouble>) -> Awkward {
    Awkward { value: 7, trouble }
}

fn awkward(step: Step, side: Side, sort: Sort) -> Awkward {
    let trouble = Some(Trouble::new(step, side, sort));
    Awkward { value: 7, trouble }
}

#[track_caller]
fn assert_is_codec<T: std::fmt::Debug>(outcome: Result<T>, text: &str) {
    let error = outcome.expect_err("a codec error");
    assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

/// Fails twenty times: each time it is that future's error, no worker is lost, and the pool goes
/// on.
fn assert_fails_alone<A, R>(f: fn(A) -> R, arg: A, text: &str) -> Result<()>
where
    A: procpool::Wire + Clone + Send + 'static,
    R: procpool::Wire + std::fmt::Debug + Send + 'static,
{
    let pool = pool_of(2);
    let workers = pool.worker_pids();
    for _ in 0..20 {
        let beside = pool.submit(square, 3);
        assert_is_codec(pool.submit(f, arg.clone()).result(), text);
        assert_eq!(beside.result()?, 9);
    }
    assert_eq!(pool.worker_pids(), workers);
    Ok(())
}

// Errors.

#[test]
fn an_argument_that_cannot_be_encoded_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let argument = awkward(Step::Encoding, Side::Pool, Sort::Error);
        assert_fails_alone(value_of, argument, "it made trouble in Encoding")
    })
}

#[test]
fn an_argument_that_cannot_be_decoded_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let argument = awkward(Step::Decoding, Side::Worker, Sort::Error);
        assert_fails_alone(value_of, argument, "it made trouble in Decoding")
    })
}

#[test]
fn a_result_that_cannot_be_encoded_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let trouble = Trouble::new(Step::Encoding, Side::Worker, Sort::Error);
        assert_fails_alone(make, Some(trouble), "it made trouble in Encoding")
    })
}

#[test]
fn a_result_that_cannot_be_decoded_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let trouble = Trouble::new(Step::Decoding, Side::Pool, Sort::Error);
        assert_fails_alone(make, Some(trouble), "it made trouble in Decoding")
    })
}

#[test]
fn an_argument_with_a_long_decoding_error_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let argument = awkward(Step::Decoding, Side::Worker, Sort::LongError);
        assert_fails_alone(value_of, argument, "it made trouble")
    })
}

#[test]
fn a_result_with_a_long_encoding_error_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let trouble = Trouble::new(Step::Encoding, Side::Worker, Sort::LongError);
        assert_fails_alone(make, Some(trouble), "it made trouble")
    })
}

#[test]
fn a_result_that_cannot_be_decoded_fails_every_time_it_is_asked_for() {
    in_time(|| {
        let pool = pool_of(1);
        let trouble = Trouble::new(Step::Decoding, Side::Pool, Sort::Error);
        let mut future = pool.submit(make, Some(trouble));
        for _ in 0..3 {
            let outcome = future.result_timeout(std::time::Duration::MAX);
            assert_is_codec(outcome, "it made trouble in Decoding");
        }
    });
}

#[test]
fn a_large_result_that_cannot_be_encoded_to_its_end_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let task = |()| {
            let trouble = Trouble::new(Step::Encoding, Side::Worker, Sort::Error);
            (vec![7u64; 100_000], make(Some(trouble)))
        };
        assert_fails_alone(task, (), "it made trouble in Encoding")
    })
}

#[test]
fn a_large_argument_that_cannot_be_encoded_to_its_end_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let argument = (
            vec![7u64; 100_000],
            awkward(Step::Encoding, Side::Pool, Sort::Error),
        );
        assert_fails_alone(
            |it: (Vec<u64>, Awkward)| it.0.len(),
            argument,
            "it made trouble in Encoding",
        )
    })
}

// Panics.

#[track_caller]
fn assert_is_panic<T: std::fmt::Debug>(outcome: Result<T>, text: &str) {
    let error = outcome.expect_err("a panic");
    let message = error.remote_panic().map(|it| it.message.as_str());
    assert_eq!(message, Some(text), "{error}");
}

#[test]
fn a_panic_while_an_argument_is_decoded_is_the_tasks() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let argument = awkward(Step::Decoding, Side::Worker, Sort::Panic);
        assert_is_panic(pool.apply(value_of, argument), "it fell over in Decoding");
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_panic_while_a_result_is_encoded_is_the_tasks() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let trouble = Trouble::new(Step::Encoding, Side::Worker, Sort::Panic);
        assert_is_panic(pool.apply(make, Some(trouble)), "it fell over in Encoding");
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_panic_while_an_argument_is_encoded_is_the_callers() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let argument = awkward(Step::Encoding, Side::Pool, Sort::Panic);
        let panic = catch_unwind(AssertUnwindSafe(|| pool.submit(value_of, argument)));
        assert!(panic.is_err());
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_panic_while_a_result_is_decoded_is_the_callers() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let trouble = Trouble::new(Step::Decoding, Side::Pool, Sort::Panic);
        let panic = catch_unwind(AssertUnwindSafe(|| pool.apply(make, Some(trouble))));
        assert!(panic.is_err());
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

// Maps.

/// Items of which every fifth makes trouble.
fn items(step: Step, side: Side) -> impl Iterator<Item = Awkward> {
    let trouble = Trouble::new(step, side, Sort::Error);
    (0..50).map(move |value| Awkward {
        value,
        trouble: (value % 5 == 3).then_some(trouble),
    })
}

#[track_caller]
fn assert_every_fifth_fails<T: std::fmt::Debug>(outcomes: Vec<Result<T>>) {
    assert_eq!(outcomes.len(), 50);
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match index % 5 {
            3 => assert_is_codec(outcome, "it made trouble"),
            _ => assert!(outcome.is_ok(), "{index}: {outcome:?}"),
        }
    }
}

#[test]
fn items_that_cannot_be_encoded_fail_alone() {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 50] {
            let input = items(Step::Encoding, Side::Pool);
            assert_every_fifth_fails(pool.options().chunk_size(size).map_results(value_of, input));
        }
    });
}

#[test]
fn items_that_cannot_be_decoded_fail_alone() {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 50] {
            let input = items(Step::Decoding, Side::Worker);
            assert_every_fifth_fails(pool.options().chunk_size(size).map_results(value_of, input));
        }
    });
}

#[test]
fn results_of_a_map_that_cannot_be_encoded_fail_alone() {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 50] {
            let input = items(Step::Encoding, Side::Worker);
            assert_every_fifth_fails(pool.options().chunk_size(size).map_results(|it| it, input));
        }
    });
}

#[test]
fn results_of_a_map_that_cannot_be_decoded_fail_alone() {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 50] {
            let input = items(Step::Decoding, Side::Pool);
            assert_every_fifth_fails(pool.options().chunk_size(size).map_results(|it| it, input));
        }
    });
}

#[test]
fn map_fails_with_the_item_that_cannot_be_encoded() {
    in_time(|| {
        let input = items(Step::Encoding, Side::Pool);
        assert_is_codec(
            pool_of(2).map(value_of, input),
            "it made trouble in Encoding",
        );
    });
}

#[test]
fn map_fails_with_the_result_that_cannot_be_decoded() {
    in_time(|| {
        let input = items(Step::Decoding, Side::Pool);
        assert_is_codec(
            pool_of(2).map(|it| it, input),
            "it made trouble in Decoding",
        );
    });
}

#[test]
fn map_async_fails_with_the_item_that_cannot_be_encoded() {
    in_time(|| {
        let input = items(Step::Encoding, Side::Pool);
        assert_is_codec(
            pool_of(2).map_async(value_of, input).result(),
            "it made trouble in Encoding",
        );
    });
}

/// A task: its result cannot be decoded for 2, and it panics for 5.
fn fail_in_two_ways(x: u64) -> Awkward {
    assert_ne!(x, 5, "the later failure");
    make((x == 2).then(|| Trouble::new(Step::Decoding, Side::Pool, Sort::Error)))
}

#[test]
fn map_counts_a_result_that_cannot_be_decoded_as_the_failure_of_its_index() {
    in_time(|| assert_is_codec(pool_of(1).map(fail_in_two_ways, 0..10), "it made trouble"));
}

#[test]
fn map_async_counts_a_result_that_cannot_be_decoded_as_the_failure_of_its_index() {
    in_time(|| {
        let outcome = pool_of(1).map_async(fail_in_two_ways, 0..10).result();
        assert_is_codec(outcome, "it made trouble");
    });
}

#[test]
fn a_context_that_cannot_be_encoded_fails_its_map() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let context = awkward(Step::Encoding, Side::Pool, Sort::Error);
        let outcome = pool.map_with(context, |it, x| it.value + x, 0..3);
        assert_is_codec(outcome, "it made trouble in Encoding");
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_context_that_cannot_be_decoded_fails_its_map() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let context = awkward(Step::Decoding, Side::Worker, Sort::Error);
        let outcome = pool.map_with(context, |it, x| it.value + x, 0..3);
        assert_is_codec(outcome, "it made trouble in Decoding");
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_context_that_panics_when_decoded_fails_its_map() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let context = awkward(Step::Decoding, Side::Worker, Sort::Panic);
        let outcome = pool.map_with(context, |it, x| it.value + x, 0..3);
        assert_is_panic(outcome, "it fell over in Decoding");
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

// Two halves that disagree.

/// Writes two numbers and reads one.
#[derive(Debug, Clone)]
struct Longer(u64);

impl Serialize for Longer {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (self.0, self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Longer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self)
    }
}

/// Writes one number and reads two.
#[derive(Debug, Clone)]
struct Shorter(u64);

impl Serialize for Shorter {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Shorter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        <(u64, u64)>::deserialize(deserializer).map(|it| Self(it.0))
    }
}

/// Writes a number and reads it as the length of a text.
#[derive(Debug, Clone)]
struct Boastful(u64);

impl Serialize for Boastful {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Boastful {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(|it| Self(it.len() as u64))
    }
}

#[test]
fn an_argument_that_reads_less_than_it_wrote_fails_its_future_alone() -> Result<()> {
    in_time(|| assert_fails_alone(|it: Longer| it.0, Longer(7), ""))
}

#[test]
fn a_result_that_reads_less_than_it_wrote_fails_its_future_alone() -> Result<()> {
    in_time(|| assert_fails_alone(Longer, 7, ""))
}

#[test]
fn an_argument_that_reads_more_than_it_wrote_fails_its_future_alone() -> Result<()> {
    in_time(|| assert_fails_alone(|it: Shorter| it.0, Shorter(7), ""))
}

#[test]
fn a_result_that_reads_more_than_it_wrote_fails_its_future_alone() -> Result<()> {
    in_time(|| assert_fails_alone(Shorter, 7, ""))
}

/// Lengths for which there is no memory anywhere, or more than there should be.
const BOASTS: [u64; 4] = [u64::MAX, 1 << 62, 1 << 46, 1 << 33];

#[test]
fn an_argument_that_claims_to_be_huge_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        BOASTS
            .into_iter()
            .try_for_each(|it| assert_fails_alone(|it: Boastful| it.0, Boastful(it), ""))
    })
}

/// A long value with a true length, and after it one with a false length.
fn boast_behind_a_megabyte(length: u64) -> (Vec<u64>, Boastful) {
    (vec![7; 1 << 18], Boastful(length))
}

#[test]
fn a_large_argument_that_claims_to_be_huge_fails_its_future_alone() -> Result<()> {
    in_time(|| {
        let task = |it: (Vec<u64>, Boastful)| it.0.len();
        BOASTS
            .into_iter()
            .try_for_each(|it| assert_fails_alone(task, boast_behind_a_megabyte(it), ""))
    })
}

#[test]
fn a_large_result_that_claims_to_be_huge_fails_its_future_alone() {
    alone("", || {
        for boast in BOASTS {
            assert_fails_alone(boast_behind_a_megabyte, boast, "").expect("the others' results");
        }
    });
}

#[test]
fn a_result_that_claims_to_be_huge_fails_its_future_alone() {
    // Alone: it must not end the whole test program.
    alone("", || {
        for boast in BOASTS {
            assert_fails_alone(Boastful, boast, "").expect("the others' results");
        }
    });
}

// Values of unusual types.

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Circle { radius: u32 },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", content = "of")]
enum TaggedBeside {
    Circle(u32),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    rest: std::collections::BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sparse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_out: Option<u32>,
    last: u32,
}

#[test]
fn an_untagged_enum_is_named_in_the_error() -> Result<()> {
    let text = "any value in a `pool::codec::Untagged` cannot be decoded";
    assert_fails_alone(|it: Untagged| it, Untagged::Number(1), text)?;
    assert_fails_alone(|it: Untagged| it, Untagged::Number(1), "`untagged`")
}

#[test]
fn an_internally_tagged_enum_is_named_in_the_error() -> Result<()> {
    let circle = Tagged::Circle { radius: 1 };
    let text = "internally tagged enum Tagged in a `pool::codec::Tagged`";
    assert_fails_alone(|it: Tagged| it, circle.clone(), text)?;
    assert_fails_alone(|it: Tagged| it, circle, "attribute `tag`")
}

#[test]
fn an_adjacently_tagged_enum_is_named_in_the_error() -> Result<()> {
    let circle = TaggedBeside::Circle(1);
    let text = "in a `pool::codec::TaggedBeside` cannot be decoded";
    assert_fails_alone(|it: TaggedBeside| it, circle.clone(), text)?;
    assert_fails_alone(
        |it: TaggedBeside| it,
        circle,
        "attributes `tag` and `content`",
    )
}

#[test]
fn a_flattened_field_is_named_in_the_error() -> Result<()> {
    let rest = [("a".to_owned(), 1)].into();
    let text = "a field in a `pool::codec::Flat` has serde's attribute `flatten`";
    assert_fails_alone(|it: Flat| it, Flat { rest }, text)
}

#[test]
fn a_field_that_is_left_out_is_named_in_the_error() -> Result<()> {
    let (left_out, last) = (None, 2);
    let text =
        "`Sparse` leaves out its field `left_out`, by serde's attribute `skip_serializing_if`";
    assert_fails_alone(|it: Sparse| it, Sparse { left_out, last }, text)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct WriteOnly {
    first: u8,
    #[serde(skip_deserializing)]
    last: u8,
}

#[test]
fn a_field_that_is_written_and_not_read_is_said_in_the_error() -> Result<()> {
    let value = WriteOnly { first: 1, last: 2 };
    let text = "1 byte of a `pool::codec::WriteOnly` is left over";
    assert_fails_alone(|it: WriteOnly| it, value, text)
}

#[test]
fn a_path_that_is_not_utf_8_is_an_error() -> Result<()> {
    let path = std::path::PathBuf::from(OsString::from_vec(vec![b'x', 0xFF]));
    assert_fails_alone(|it: std::path::PathBuf| it, path, "UTF-8")
}

#[test]
fn names_that_are_not_utf_8_come_through() -> Result<()> {
    in_time(|| {
        let name = OsString::from_vec(b"caf\xe9\xff\x80".to_vec());
        assert_eq!(pool_of(1).apply(|it: OsString| it, name.clone())?, name);
        Ok(())
    })
}

#[test]
fn names_that_are_not_utf_8_come_through_a_map() -> Result<()> {
    in_time(|| {
        let names: Vec<_> = (128..=255)
            .map(|it| OsString::from_vec(vec![b'x', it]))
            .collect();
        assert_eq!(pool_of(2).map(|it: OsString| it, names.clone())?, names);
        Ok(())
    })
}

/// A task that fails as a whole program would.
fn io_error_text((): ()) -> std::result::Result<(), String> {
    std::fs::metadata("/nowhere")
        .map(drop)
        .map_err(|it| it.to_string())
}

#[test]
fn nested_values_come_through() -> Result<()> {
    in_time(|| {
        type Nested = (
            Option<Vec<u8>>,
            std::collections::BTreeMap<String, Vec<(u8, f64)>>,
            char,
        );
        let value: Nested = (
            Some(vec![1, 2]),
            [("a".to_owned(), vec![(1, 0.5)])].into(),
            'ß',
        );
        assert_eq!(pool_of(1).apply(|it: Nested| it, value.clone())?, value);
        assert!(pool_of(1).apply(io_error_text, ())?.is_err());
        Ok(())
    })
}

/// The error is one of the task's, not of the pool's.
#[test]
fn a_codec_error_is_no_workers_death() {
    in_time(|| {
        let pool: ProcessPoolExecutor = pool_of(1);
        let error: Error = failure(pool.apply(|it: Longer| it.0, Longer(7)));
        assert!(error.worker().is_none() && error.remote_panic().is_none());
    });
}

/// A task that has a pool of its own, and hands on what becomes of its task.
fn hand_on(what: u32) -> procpool::Result<u32> {
    let task = |what| -> u32 {
        match what {
            0 => panic!("on purpose"),
            1 => std::process::abort(),
            _ => what,
        }
    };
    pool_of(1).apply(task, what)
}

#[test]
fn an_error_of_this_crates_is_a_result_with_all_that_it_tells() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let panicked = failure(pool.apply(hand_on, 0)?);
        assert_eq!(panicked.kind(), ErrorKind::Panicked);
        let panic = panicked.remote_panic().expect("what it said");
        assert_eq!(panic.message, "on purpose");
        assert!(panicked.to_string().ends_with(": on purpose"), "{panicked}");
        let died = failure(pool.apply(hand_on, 1)?);
        assert_eq!(died.kind(), ErrorKind::WorkerDied);
        assert_eq!(died.worker().and_then(|it| it.signal), Some(6));
        assert_eq!(pool.apply(hand_on, 2)??, 2);
        Ok(())
    })
}
