//! Two programs share a list over TCP: this program starts itself once more, with the address as an
//! argument.

use procpool::{AuthKey, ListProxy, Manager, Result};
use std::{env, net::SocketAddr, process::Command};

fn key() -> AuthKey {
    "what both programs know".into()
}

fn client(address: SocketAddr) -> Result<()> {
    let manager = Manager::connect(address, key())?;
    let words: Option<ListProxy<String>> = manager.globals()?.get("words")?;
    words
        .expect("it was put there")
        .push("hello from another program".to_owned())
}

fn server() -> Result<()> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let manager = Manager::builder()
        .address(any_port)
        .authkey(key())
        .start()?;
    let words = manager.list::<String>()?;
    manager.globals()?.set("words", words.clone())?;
    let program = env::current_exe().expect("this program has a path");
    let status = Command::new(program)
        .arg(manager.address().to_string())
        .status();
    println!(
        "the other program succeeded: {}",
        status.is_ok_and(|it| it.success())
    );
    println!("{:?}", words.to_vec()?);
    Ok(())
}

fn main() -> Result<()> {
    match env::args().nth(1).and_then(|it| it.parse().ok()) {
        Some(address) => client(address),
        None => server(),
    }
}
