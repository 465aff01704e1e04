import COpenSSL

/// OpenSSL's error queue of this thread.
enum OpenSSLErrors {
    /// Call before every operation whose errors are read: the queue keeps what earlier callers left.
    static func clear() { ERR_clear_error() }

    /// Empties the queue; its reasons, oldest first, for a message.
    static func drain() -> String {
        var reasons: [String] = []
        while case let code = ERR_get_error(), code != 0 {
            guard let reason = ERR_reason_error_string(code) else { continue }
            let text = String(cString: reason)
            if reasons.last != text { reasons.append(text) }
        }
        return reasons.isEmpty ? "no reason given" : reasons.joined(separator: ", ")
    }

    static func failure(_ what: String) -> IdentityError {
        IdentityError(.crypto, "OpenSSL could not \(what): \(drain())")
    }
}

/// Memory BIOs: the way bytes enter and leave OpenSSL.
enum MemoryBIO {
    /// The bytes stay where they are; the BIO is valid only inside `body`.
    static func reading<Result, Failure: Error>(
        _ bytes: [UInt8],
        _ body: (OpaquePointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // An empty array has no base address; BIO_new_mem_buf refuses nil, not a length of zero.
        let bytes = bytes.isEmpty ? [UInt8(ascii: "\n")] : bytes
        let outcome: Swift.Result<Result, Failure> = bytes.withUnsafeBytes { buffer in
            guard let bio = BIO_new_mem_buf(buffer.baseAddress, Int32(clamping: buffer.count)) else {
                fatalError("out of memory")
            }
            defer { BIO_free(bio) }
            do throws(Failure) {
                return .success(try body(bio))
            } catch {
                return .failure(error)
            }
        }
        return try outcome.get()
    }

    /// What `body` writes; nil if it returns false. The memory behind the BIO is wiped, for it may have held a key.
    static func writing(_ body: (OpaquePointer) -> Bool) -> [UInt8]? {
        guard let bio = BIO_new(BIO_s_secmem()) else { fatalError("out of memory") }
        defer { BIO_free(bio) }
        guard body(bio) else { return nil }
        var data: UnsafeMutablePointer<CChar>?
        let count = copenssl_BIO_get_mem_data(bio, &data)
        return [UInt8](UnsafeRawBufferPointer(start: data, count: max(0, count)))
    }
}
