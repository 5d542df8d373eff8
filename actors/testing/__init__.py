"""What tests of Portico, and of what is built on it, can use: fakes that lie on cue, and checks of promises."""
