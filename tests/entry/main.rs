//! How a copy of the program becomes the fork server: in every kind of program, with every
//! constructor, and only if the parent asks for it.

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
