//! A dict with keys of several types and a list, changed by another process.

use procpool::{DictProxy, ListProxy, Manager, Process, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A number, a text, or nothing: keys and values of several types are an enum.
#[derive(Serialize, Deserialize)]
enum Any {
    Int(i64),
    Float(f64),
    Text(String),
    None,
}

impl fmt::Debug for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::None => f.write_str("None"),
        }
    }
}

fn change((dict, list): (DictProxy<Any, Any>, ListProxy<u32>)) -> Option<()> {
    dict.insert(Any::Float(0.25), Any::None).ok()?;
    dict.insert(Any::Int(1), Any::Text("1".to_owned())).ok()?;
    dict.insert(Any::Text("2".to_owned()), Any::Int(2)).ok()?;
    list.reverse().ok()
}

fn main() -> Result<()> {
    let manager = Manager::start()?;
    let (dict, list) = (manager.dict()?, manager.list()?);
    list.extend(0..10)?;
    Process::start(change, (dict.clone(), list.clone()))?.join()?;
    let items: Vec<String> = dict
        .items()?
        .iter()
        .map(|(key, value)| format!("{key:?}: {value:?}"))
        .collect();
    println!("{{{}}}", items.join(", "));
    println!("{:?}", list.to_vec()?);
    Ok(())
}
