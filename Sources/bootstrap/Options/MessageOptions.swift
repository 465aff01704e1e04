import ArgumentParser

/// How much a command says on stderr, with ssh's letters.
struct MessageOptions: ParsableArguments {
    @Flag(name: [.customShort("q"), .customLong("quiet")], help: "Say errors only: no warnings, no progress.")
    var quiet = false

    @Flag(
        name: [.customShort("v"), .customLong("verbose")],
        help: "Say more of what is done; twice (-vv): everything."
    )
    var verbose: Int

    func validate() throws {
        guard !quiet || verbose == 0 else { throw ValidationError("-q and -v contradict each other") }
        Verbosity.set(quiet ? .quiet : verbose == 0 ? .normal : verbose == 1 ? .verbose : .everything)
    }
}
