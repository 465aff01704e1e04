import MeshIdentity
import Platform

/// How far a device's clock is from the operator's.
package struct ClockSkew: Hashable, Sendable, CustomStringConvertible {
    /// The device's clock minus the operator's, in milliseconds; negative: the device is behind.
    package var milliseconds: Int64
    /// How far that may be off, in milliseconds: the device has read its clock at some moment of a round trip.
    package var uncertainty: Int64

    /// Worth a warning: logs of the two sides no longer line up, and NotBefore (two minutes back) has little room left.
    package static let warningThreshold: Int64 = 30_000
    /// Worth saying what follows from it.
    package static let consequenceThreshold: Int64 = 300_000

    package init(milliseconds: Int64, uncertainty: Int64 = 0) {
        self.milliseconds = max(milliseconds, -Int64.max)
        self.uncertainty = uncertainty
    }

    /// Both in milliseconds since 1970. A nonsensical clock of a peer saturates instead of trapping.
    package init(device: Int64, operator here: Int64) {
        milliseconds = max(device.subtractingSaturating(here), -Int64.max)
        uncertainty = 0
    }

    /// Of a clock that was read between a question and its answer: taken to be in the middle.
    ///
    /// - Parameters:
    ///   - seconds: The device's clock, whole seconds since 1970.
    ///   - asked: The operator's clock before, milliseconds since 1970.
    ///   - answered: The same afterwards.
    package init(deviceSeconds seconds: Int64, asked: Int64, answered: Int64) {
        let half = max(0, answered - asked) / 2
        // What `date +%s` leaves out is half a second on the average.
        self.init(device: seconds.multipliedSaturating(by: 1000).addingSaturating(500), operator: asked + half)
        uncertainty = half + 500
    }

    package var isWorthWarning: Bool { abs(milliseconds) >= Self.warningThreshold }

    /// For the user, where a certificate is given out all the same; nil where there is nothing to say.
    package var warning: String? {
        guard isWorthWarning else { return nil }
        guard abs(milliseconds) > Self.consequenceThreshold else { return description }
        let consequence =
            milliseconds < 0
            ? "its certificate is dated back by \(text(backdating)) to be valid there, but it refuses peers "
                + "whose certificates are younger than that"
            : "it takes certificates, its own too, for expired by so much too early"
        return "\(description): \(consequence); set its clock (\(Self.fix))"
    }

    /// The same where revocation lists are given out: they are made by the operator's clock, and leave out what has
    /// ended by that.
    package var warningOnLists: String? {
        guard isWorthWarning else { return nil }
        guard abs(milliseconds) > Self.consequenceThreshold else { return description }
        return
            "\(description): \(milliseconds < 0 ? "it refuses what the list has, and goes on refusing what was revoked before" : "it takes certificates for expired by so much too early"); "
            + "set the clock that is wrong (\(Self.fix)), and where it is this machine's, run `bootstrap revoke` again then"
    }

    private static let fix = "date -u -s, or time synchronisation"

    /// How far back NotBefore is to be set, in seconds, so that a certificate is valid at once by the device's clock:
    /// two minutes, and more where the device is behind.
    package var backdating: Int64 {
        let behind = max(0, (-milliseconds).addingSaturating(uncertainty)) / 1000
        return max(IssuanceOptions.defaultBackdating.components.seconds, behind + 60)
    }

    /// Why no certificate is made for a device with such a clock; nil when one is.
    ///
    /// What is due, expired or valid is reckoned by clocks: with more than a quarter of the lifetime between them, a
    /// device would renew all the time, or too late.
    ///
    /// - Parameters:
    ///   - lifetime: Of the certificate, in seconds.
    ///   - isAccepted: Somebody said that it is to be made all the same.
    package func refusal(lifetime: Int64, isAccepted: Bool) -> SignalError? {
        let seconds = max(0, abs(milliseconds).subtractingSaturating(uncertainty)) / 1000
        let longest = max(IssuanceOptions.defaultBackdating.components.seconds, lifetime / 4)
        guard seconds > longest else { return nil }
        let set = "set the device's clock (\(Self.fix)), then try again"
        if milliseconds > 0, seconds >= lifetime {
            return SignalError(
                .clock,
                "\(description); a certificate for \(text(lifetime)) would have expired there: \(set)"
            )
        }
        guard !isAccepted else { return nil }
        return SignalError(
            .clock,
            "\(description), more than a quarter of the \(text(lifetime)) that its certificate is valid: \(set); "
                + "--skew-ok gives it one all the same"
        )
    }

    private func text(_ seconds: Int64) -> String { Self.text(milliseconds: seconds.multipliedSaturating(by: 1000)) }

    /// "device clock is 3 h 12 min behind".
    package var description: String {
        "device clock is \(Self.text(milliseconds: abs(milliseconds))) \(milliseconds < 0 ? "behind" : "ahead")"
    }

    /// Why a certificate with this validity would not be valid by the device's clock; nil when it would.
    ///
    /// - Parameters:
    ///   - notBefore: seconds since 1970, as `notAfter`.
    ///   - device: the device's clock, milliseconds since 1970.
    package func refusal(notBefore: Int64, notAfter: Int64, device: Int64) -> SignalError? {
        let seconds = device / 1000
        let fix = "set the device's clock (\(Self.fix)), then enroll again"
        if seconds < notBefore {
            return SignalError(
                .clock,
                "\(description); certificate would not be valid yet there (valid from \(Timestamp.text(notBefore))): \(fix)"
            )
        }
        if seconds >= notAfter {
            return SignalError(
                .clock,
                "\(description); certificate would have expired there (valid until \(Timestamp.text(notAfter))): \(fix)"
            )
        }
        return nil
    }

    /// The two largest units: "3 h 12 min", "2 d 0 h", "45 s".
    static func text(milliseconds: Int64) -> String {
        let seconds = milliseconds / 1000
        switch seconds {
        case ..<60: return "\(seconds) s"
        case ..<3600: return "\(seconds / 60) min \(seconds % 60) s"
        case ..<86_400: return "\(seconds / 3600) h \(seconds % 3600 / 60) min"
        default: return "\(seconds / 86_400) d \(seconds % 86_400 / 3600) h"
        }
    }
}

/// Points in time for people.
package enum Timestamp {
    /// RFC 3339 in UTC, `2026-11-22T13:00:00Z`.
    package static func text(_ secondsSince1970: Int64) -> String {
        // Beyond the year 9999 and before the year 0 the format has no notation.
        let seconds = min(max(secondsSince1970, -62_167_219_200), 253_402_300_799)
        var days = seconds / 86_400
        var rest = seconds % 86_400
        if rest < 0 {
            rest += 86_400
            days -= 1
        }
        // Days to civil date, proleptic Gregorian, counting years from March so that the leap day comes last.
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        func pad(_ value: Int64, _ width: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, width - text.count)) + text
        }
        return
            "\(pad(year, 4))-\(pad(month, 2))-\(pad(day, 2))T\(pad(rest / 3600, 2)):\(pad(rest / 60 % 60, 2)):\(pad(rest % 60, 2))Z"
    }
}
