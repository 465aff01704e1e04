import Platform

extension Certificate {
    /// Reads a file of certificates in PEM form.
    ///
    /// - Throws: ``IdentityError``, which names the file.
    package static func all(file path: String) throws(IdentityError) -> [Certificate] {
        let pem = try fileWork(AtomicFile.read(path))
        return try named(path) { () throws(IdentityError) in try all(pem: pem) }
    }

    /// The same of one that says who is trusted: it is refused where others than its owner can change it.
    package static func trusted(file path: String, limit: Int = 1 << 20) throws(IdentityError) -> [Certificate] {
        let pem = try trustFile(path, limit: limit)
        return try named(path) { () throws(IdentityError) in try all(pem: pem) }
    }

    /// The same of one whose bytes were read.
    package static func all(pem: [UInt8], of path: String) throws(IdentityError) -> [Certificate] {
        try named(path) { () throws(IdentityError) in try all(pem: pem) }
    }

    private static func named<Result>(
        _ path: String,
        _ body: () throws(IdentityError) -> Result
    ) throws(IdentityError) -> Result {
        do throws(IdentityError) { return try body() } catch {
            throw IdentityError(error.code, "\(path): \(error.message)")
        }
    }
}
