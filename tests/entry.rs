//! How a copy of the program becomes the fork server: from every kind of program, past every constructor, and only when
//! it is meant to.

#[path = "common/mod.rs"]
mod common;
#[path = "common/processes.rs"]
mod processes;

#[path = "entry/constructors.rs"]
mod constructors;
#[path = "entry/invitation.rs"]
mod invitation;
#[path = "entry/packages.rs"]
mod packages;
#[path = "entry/surroundings.rs"]
mod surroundings;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    let lists = [
        constructors::PROGRAMS,
        invitation::PROGRAMS,
        surroundings::PROGRAMS,
    ];
    processes::run(&lists.concat());
}
