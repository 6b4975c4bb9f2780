//! What lists, dicts, namespaces, values, arrays and the user's own objects do.

use common::{failure, in_time};
use procpool::{ErrorKind, ListProxy, Manager, Proxy, Result};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Barrier, thread};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    balance: i64,
}

impl Account {
    fn deposit(&mut self, amount: i64) -> i64 {
        self.balance += amount;
        self.balance
    }

    fn withdraw(&mut self, amount: i64) -> std::result::Result<i64, String> {
        if amount > self.balance {
            return Err(format!("{} are not enough", self.balance));
        }
        Ok(self.deposit(-amount))
    }
}

#[test]
fn a_list_does_what_a_vec_does() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let list = manager.list::<String>()?;
        assert!(list.is_empty()? && list.pop()?.is_none() && list.get(0)?.is_none());
        list.extend("b a d".split(' ').map(str::to_owned))?;
        list.push("c".to_owned())?;
        list.insert(4, "e".to_owned())?;
        list.sort()?;
        assert_eq!(list.to_vec()?.concat(), "abcde");
        list.reverse()?;
        list.swap(0, 4)?;
        assert_eq!(list.slice(1..)?.concat(), "dcbe");
        assert_eq!(list.slice(2..=9)?.concat(), "cbe");
        list.set(0, "x".to_owned())?;
        assert_eq!(
            (list.first()?, list.last()?),
            (Some("x".into()), Some("e".into()))
        );
        assert_eq!(
            (list.remove(0)?, list.swap_remove(0)?),
            ("x".to_owned(), "d".to_owned())
        );
        assert_eq!(list.to_vec()?.concat(), "ecb");
        assert!(list.contains(&"c".to_owned())? && !list.contains(&"d".to_owned())?);
        assert_eq!(
            (
                list.position(&"b".to_owned())?,
                list.count(&"b".to_owned())?
            ),
            (Some(2), 1)
        );
        list.truncate(2)?;
        assert_eq!(
            (list.len()?, list.take()?.concat(), list.len()?),
            (2, "ec".to_owned(), 0)
        );
        list.extend("aabbcc".chars().map(String::from))?;
        list.dedup()?;
        assert!(list.remove_item(&"b".to_owned())? && !list.remove_item(&"b".to_owned())?);
        assert_eq!(
            list.splice(1..1, ["x".to_owned(), "y".to_owned()])?.len(),
            0
        );
        assert_eq!(list.to_vec()?.concat(), "axyc");
        assert_eq!(list.drain(1..3)?.concat(), "xy");
        assert_eq!(list.drain(5..)?.len(), 0);
        #[expect(
            clippy::reversed_empty_ranges,
            reason = "a range without items of the list"
        )]
        let nothing = list.splice(9..1, ["z".to_owned()])?;
        assert_eq!(
            (nothing.len(), list.drain(..)?.concat()),
            (0, "azc".to_owned())
        );
        list.push("f".to_owned())?;
        list.clear()?;
        list.is_empty().map(|it| assert!(it))
    })
}

#[test]
fn a_place_that_a_list_does_not_have_is_invalid_input() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let list = manager.list::<u8>()?;
        list.push(1)?;
        let kinds = [
            failure(list.set(1, 0)).kind(),
            failure(list.insert(2, 0)).kind(),
            failure(list.remove(1)).kind(),
            failure(list.swap_remove(1)).kind(),
            failure(list.swap(0, 1)).kind(),
            failure(manager.array(vec![0u8])?.get(1)).kind(),
            failure(manager.array(vec![0u8])?.set(1, 0)).kind(),
            failure(manager.array(vec![0u8])?.set_slice(0, vec![1, 2])).kind(),
            failure(manager.array(vec![0u8])?.set_slice(usize::MAX, vec![1, 2])).kind(),
        ];
        assert_eq!(kinds, [ErrorKind::InvalidInput; 9]);
        assert_eq!(list.to_vec()?, [1]);
        Ok(())
    })
}

#[test]
fn a_dict_does_what_a_hash_map_does_in_order_of_insertion() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let dict = manager.dict::<String, u64>()?;
        let key = |it: &str| it.to_owned();
        assert_eq!(
            (dict.insert(key("b"), 1)?, dict.insert(key("b"), 2)?),
            (None, Some(1))
        );
        dict.update(["z", "a", "b"].map(|it| (key(it), 3)))?;
        assert_eq!(dict.keys()?.concat(), "bza");
        assert_eq!(
            (dict.get(&key("a"))?, dict.get(&key("c"))?),
            (Some(3), None)
        );
        assert_eq!(
            (
                dict.get_or_insert(key("c"), 4)?,
                dict.get_or_insert(key("a"), 4)?
            ),
            (4, 3)
        );
        assert_eq!(dict.remove(&key("z"))?, Some(3));
        assert_eq!(dict.items()?, [(key("b"), 3), (key("a"), 3), (key("c"), 4)]);
        assert!(dict.contains_key(&key("a"))? && !dict.contains_key(&key("z"))?);
        let add = |value: &mut u64, by| {
            *value += by;
            *value
        };
        assert_eq!(
            (
                dict.modify(&key("a"), add, 7)?,
                dict.modify(&key("z"), add, 7)?
            ),
            (Some(10), None)
        );
        assert_eq!(
            (dict.pop_first()?, dict.pop_last()?),
            (Some((key("b"), 3)), Some((key("c"), 4)))
        );
        assert_eq!((dict.values()?, dict.len()?), (vec![10], 1));
        dict.update(["k", "l", "m"].map(|it| (key(it), 5)))?;
        let several = [key("m"), key("?"), key("m"), key("k")];
        assert_eq!(dict.get_many(&several)?, [Some(5), None, Some(5), Some(5)]);
        assert_eq!(dict.remove_many(&several)?, [Some(5), None, None, Some(5)]);
        dict.retain(
            |key, value, by| {
                *value += by;
                key == "l" || *value > 20
            },
            2,
        )?;
        assert_eq!(dict.items()?, [(key("l"), 7)]);
        dict.insert(key("a"), 10)?;
        let refused = dict.retain(
            |key, _, ()| {
                assert!(key != "a", "no a");
                false
            },
            (),
        );
        assert_eq!(failure(refused).kind(), ErrorKind::Panicked);
        assert_eq!(dict.keys()?.concat(), "la");
        dict.remove(&key("l"))?;
        dict.update(HashMap::from([(key("y"), 1)]))?;
        assert_eq!(dict.take()?.len(), 2);
        assert!(dict.is_empty()? && dict.pop_first()?.is_none());
        dict.insert(key("y"), 1)?;
        dict.clear()?;
        dict.len().map(|it| assert_eq!(it, 0))
    })
}

#[test]
fn an_array_is_read_and_written_in_pieces() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let array = manager.array((0..6).collect::<Vec<u8>>())?;
        array.set_slice(2, vec![7, 8])?;
        array.set_slice(6, vec![])?;
        assert_eq!(array.slice(1..5)?, [1, 7, 8, 4]);
        assert_eq!((array.slice(5..9)?, array.slice(7..)?), (vec![5], vec![]));
        assert_eq!(array.to_vec()?, [0, 1, 7, 8, 4, 5]);
        Ok(())
    })
}

#[test]
fn single_bytes_come_back_from_everywhere() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let list = manager.list::<u8>()?;
        list.extend([1, 2, 3])?;
        assert_eq!(
            (list.slice(1..)?, list.to_vec()?),
            (vec![2, 3], vec![1, 2, 3])
        );
        assert_eq!((list.drain(..1)?, list.take()?), (vec![1], vec![2, 3]));
        let dict = manager.dict::<u8, u8>()?;
        dict.update([(1, 2), (3, 4)])?;
        assert_eq!((dict.keys()?, dict.values()?), (vec![1, 3], vec![2, 4]));
        assert_eq!(dict.get_many(&[3, 9])?, [Some(4), None]);
        assert_eq!(
            (dict.items()?, dict.take()?.len()),
            (vec![(1, 2), (3, 4)], 2)
        );
        let queue = manager.queue::<u8>(9)?;
        queue.put_many(&[5, 6])?;
        assert_eq!((queue.get()?, queue.get_many(9)?), (5, vec![6]));
        assert_eq!(manager.array(vec![7u8, 8])?.to_vec()?, [7, 8]);
        Ok(())
    })
}

#[test]
fn bytes_of_any_size_come_back_from_everywhere() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        for length in [0, 1, 55, 56, 4096, 70_000, 5 << 20] {
            let bytes = common::pattern(length, 1);
            let list = manager.list::<Vec<u8>>()?;
            list.push(bytes.clone())?;
            list.extend([bytes.clone()])?;
            assert_eq!(list.get(0)?.as_ref(), Some(&bytes));
            assert_eq!(list.pop()?.as_ref(), Some(&bytes));
            let dict = manager.dict::<Vec<u8>, Vec<u8>>()?;
            dict.insert(bytes.clone(), bytes.clone())?;
            assert_eq!(dict.get(&bytes)?.as_ref(), Some(&bytes));
            assert_eq!(dict.items()?, [(bytes.clone(), bytes.clone())]);
            assert!(dict.get_or_insert(bytes.clone(), Vec::new())? == bytes);
            assert!(manager.value(bytes.clone())?.get()? == bytes);
            let names = manager.namespace()?;
            names.set("bytes", bytes.clone())?;
            assert_eq!(names.get::<Vec<u8>>("bytes")?, Some(bytes));
        }
        Ok(())
    })
}

#[test]
fn a_namespace_keeps_values_of_any_type_apart() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let names = manager.namespace()?;
        names.set("count", 1u64)?;
        names.set("words", vec!["a".to_owned()])?;
        names.set("words", 1.5f64)?;
        assert_eq!(
            (names.get("count")?, names.get("words")?),
            (Some(1u64), Some(1.5f64))
        );
        assert_eq!(failure(names.get::<u32>("count")).kind(), ErrorKind::Codec);
        assert_eq!(failure(names.get::<i64>("count")).kind(), ErrorKind::Codec);
        assert_eq!(names.get::<u32>("nothing")?, None);
        assert!(names.contains("count")? && names.remove("count")? && !names.remove("count")?);
        assert_eq!(names.names()?, ["words"]);
        manager.globals()?.set("answer", 42)?;
        assert_eq!(manager.globals()?.get("answer")?, Some(42));
        assert_eq!(manager.namespace()?.names()?, [""; 0]);
        Ok(())
    })
}

#[test]
fn a_users_object_runs_its_functions_in_the_server() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let account = manager.object(Account::default())?;
        assert_eq!(account.call(Account::deposit, 10)?, 10);
        assert_eq!(account.call(|it, by| it.deposit(by), 5i64)?, 15);
        assert_eq!(
            account.call(Account::withdraw, 20)?,
            Err("15 are not enough".to_owned())
        );
        assert_eq!(account.get()?, Account { balance: 15 });
        let pid = account.call(|_, ()| std::process::id(), ())?;
        assert_eq!(Some(pid), manager.server_pid());
        let bytes = manager.object(Vec::<u8>::new())?;
        bytes.call(Vec::push, 1)?;
        assert_eq!(bytes.get()?, [1]);
        Ok(())
    })
}

#[test]
fn transfers_between_accounts_by_many_threads_lose_nothing() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let accounts = manager.dict::<u8, Proxy<Account>>()?;
        for number in 0..4 {
            accounts.insert(number, manager.object(Account { balance: 100 })?)?;
        }
        let transfer = |from: u8| -> Result<()> {
            let (Some(from), Some(to)) = (accounts.get(&from)?, accounts.get(&((from + 1) % 4))?)
            else {
                panic!("both accounts are there");
            };
            if from.call(Account::withdraw, 7)?.is_ok() {
                to.call(Account::deposit, 7)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|number| scope.spawn(move || (0..50).try_for_each(|_| transfer(number))))
                .collect();
            clients
                .into_iter()
                .try_for_each(|it| it.join().expect("no panic"))
        })?;
        let balances = accounts
            .values()?
            .into_iter()
            .map(|it| Ok(it.get()?.balance));
        assert_eq!(balances.sum::<Result<i64>>()?, 400);
        Ok(())
    })
}

#[test]
fn a_panic_is_the_callers_error_and_the_object_lives_on() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let account = manager.object(Account { balance: 1 })?;
        let error = failure(account.call(
            |it, ()| {
                it.balance = 2;
                if it.balance == 2 {
                    panic!("on purpose");
                }
            },
            (),
        ));
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let panic = error.remote_panic().expect("a panic");
        assert_eq!(panic.message, "on purpose");
        assert!(
            panic
                .location
                .as_ref()
                .is_some_and(|it| it.contains("objects.rs"))
        );
        assert_eq!(account.get()?.balance, 2);
        Ok(())
    })
}

#[test]
fn one_object_is_used_by_one_call_at_a_time_and_others_meanwhile() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (busy, other) = (manager.value(0)?, manager.value(0)?);
        let gate = common::Gate::new();
        let both = Barrier::new(2);
        thread::scope(|scope| {
            let path = gate.path();
            let (busy, both) = (&busy, &both);
            let wait = |value: &mut i32, path| {
                common::pass(path);
                *value += 1;
            };
            let first = scope.spawn(move || busy.call(wait, path));
            gate.wait_for(1);
            let second = scope.spawn(move || {
                both.wait();
                busy.get()
            });
            both.wait();
            for number in 0..100 {
                other.set(number).expect("another object");
            }
            gate.open();
            first.join().expect("no panic")?;
            assert_eq!(second.join().expect("no panic")?, 1);
            Ok(())
        })
    })
}

#[test]
fn a_proxy_of_another_type_is_told_so() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let numbers = manager.list::<u64>()?;
        manager.globals()?.set("numbers", numbers)?;
        let wrong = manager.globals()?.get::<ListProxy<String>>("numbers");
        assert_eq!(failure(wrong).kind(), ErrorKind::Codec);
        Ok(())
    })
}

#[test]
fn a_function_that_uses_its_own_object_is_refused_and_others_are_called_directly() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let account = manager.object(Account::default())?;
        let list = manager.list::<i64>()?;
        let itself = account.call(
            |_, own: Proxy<Account>| own.get().map_err(|it| it.kind() == ErrorKind::InvalidInput),
            account.clone(),
        )?;
        assert_eq!(itself, Err(true));
        let note = |it: &mut Account, list: ListProxy<i64>| list.push(it.deposit(1)).is_ok();
        assert!(account.call(note, list.clone())? && account.call(note, list.clone())?);
        assert_eq!(list.to_vec()?, [1, 2]);
        Ok(())
    })
}

#[test]
fn what_cannot_be_decoded_is_one_calls_error() -> Result<()> {
    #[derive(Clone)]
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
            to.serialize_u8(1)
        }
    }
    impl<'de> Deserialize<'de> for Stubborn {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
            Err(serde::de::Error::custom("it will not"))
        }
    }
    in_time(|| {
        let manager = Manager::start()?;
        let list = manager.list::<Stubborn>()?;
        let error = failure(list.push(Stubborn));
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().ends_with("it will not"), "{error}");
        assert_eq!(list.len()?, 0);
        Ok(())
    })
}
