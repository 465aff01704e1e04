import Platform

/// How commands find the device that somebody names: one lookup, one error.
extension DeviceDirectory {
    /// The device that `text` means: its name, the destination it was enrolled with, or its SPIFFE ID. For where
    /// nothing but an enrolled device will do.
    ///
    /// - Throws: `usage` where there is none, or several, with what was probably meant.
    package func enrolled(_ text: String) throws(HostError) -> Device {
        guard let device = try enrolledIfAny(text) else {
            let guess = suggestion(for: text).map { "; did you mean '\($0)'?" } ?? ";"
            throw HostError(.usage, "'\(text)' is not enrolled\(guess) `bootstrap status` lists what is")
        }
        return device
    }

    /// The same where a host that was never enrolled will do as well: nil then.
    package func enrolledIfAny(_ text: String) throws(HostError) -> Device? {
        do throws(DeviceDirectoryError) {
            return try device(for: text)
        } catch {
            throw HostError(error.reason, error.message)
        }
    }

    /// The name of a device that was probably meant by one that nothing has; nil where none is near.
    package func suggestion(for text: String) -> String? {
        let names = ((try? all()) ?? []).map(\.name)
        return names.contains(text) ? nil : Spelling.nearest(to: text, among: names)
    }
}

extension Device {
    /// That everybody refuses its present certificate, and what to do about it; nil where it is not revoked, and where
    /// the device itself is.
    package var certificateRefusal: (text: String, fix: String)? {
        guard certificateRevokedAt != nil, revokedAt == nil else { return nil }
        return (
            "the certificate of \(name) (serial \(serial ?? "?")) is revoked, and everybody refuses it",
            "bootstrap renew \(name)"
        )
    }
}
