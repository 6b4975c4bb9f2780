//! How a copy of the program becomes the fork server: from every kind of program, past every constructor, and only when
//! it is meant to.

mod constructors;
mod env_var;
mod environment;
mod packages;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    let lists = [
        constructors::PROGRAMS,
        env_var::PROGRAMS,
        environment::PROGRAMS,
    ];
    common::processes::run(&lists.concat());
}
