import SSHSignal
import Testing

@testable import Agent

@Suite struct ServiceChoiceTests {
    @Test func withoutAnOrderWhatThereIsStays() {
        #expect(ServiceChoice(nil, recorded: .openrc) == .present(.openrc))
        #expect(ServiceChoice(nil, recorded: nil) == .present(nil))
    }

    @Test func aKindIsTakenOrRefused() {
        #expect(ServiceChoice("cron", recorded: .systemd) == .one(.cron))
        #expect(ServiceChoice("systemd-user", recorded: nil) == .one(.systemdUser))
        #expect(ServiceChoice("none", recorded: .cron) == .noService)
        #expect(ServiceChoice("launchd", recorded: .cron) == .unknown)
        #expect(ServiceChoice("", recorded: nil) == .unknown)
    }

    @Test func automaticBeginsWithWhatThereIs() {
        #expect(ServiceChoice("auto", recorded: nil) == .firstOf([.systemd, .systemdUser, .openrc, .procd, .cron]))
        #expect(ServiceChoice("auto", recorded: .procd) == .firstOf([.procd, .systemd, .systemdUser, .openrc, .cron]))
        #expect(
            ServiceChoice("auto", recorded: ServiceKind.none)
                == .firstOf([.systemd, .systemdUser, .openrc, .procd, .cron])
        )
    }

    @Test func noneHoldsUntilAnotherIsNamed() {
        #expect(ServiceChoice("auto", recorded: ServiceKind.none, isKept: true) == .noService)
        #expect(ServiceChoice("cron", recorded: ServiceKind.none, isKept: true) == .one(.cron))
        // None could be had then, which nobody has chosen.
        #expect(ServiceChoice("auto", recorded: nil, isKept: true) == .firstOf(ServiceKind.preferred))
    }

    @Test func everyKindButNoneIsAServiceOfItsOwnKind() {
        let description = ServiceDescription(program: "/opt/bootstrap/current/bootstrap", state: "/opt/bootstrap/state")
        for kind in ServiceKind.allCases { #expect(kind.service(description)?.kind == (kind == .none ? nil : kind)) }
    }
}
