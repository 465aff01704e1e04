import ArgumentParser

/// What is to become of devices whose clocks are wrong.
struct ClockOptions: ParsableArguments {
    @Flag(
        help: ArgumentHelp(
            "Give a certificate even to a device whose clock is off by more than a quarter of the certificate's lifetime; NotBefore is "
                + "dated back as far as it takes."
        )
    )
    var skewOk = false
}
