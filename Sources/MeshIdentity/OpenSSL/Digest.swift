import COpenSSL

/// The hash functions that SSH keys and signatures, known_hosts and the agent's upload need.
package enum Digest {
    package static func sha256(_ bytes: [UInt8]) -> [UInt8] { hash(bytes, EVP_sha256(), count: 32) }

    static func sha512(_ bytes: [UInt8]) -> [UInt8] { hash(bytes, EVP_sha512(), count: 64) }

    /// In hexadecimal. Not for anything secret: OpenSSH names control sockets by it.
    package static func sha1(_ text: String) -> String {
        hash(Array(text.utf8), EVP_sha1(), count: 20).map {
            $0 < 16 ? "0" + String($0, radix: 16) : String($0, radix: 16)
        }
        .joined()
    }

    private static func hash(_ bytes: [UInt8], _ function: OpaquePointer?, count: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        var length: UInt32 = 0
        let done = EVP_Digest(bytes, bytes.count, &result, &length, function, nil)
        precondition(done == 1 && length == count, "SHA-2 is part of every OpenSSL")
        return result
    }

    /// HMAC-SHA1, which hashed host names are made with (`sshd(8)`, SSH_KNOWN_HOSTS FILE FORMAT). It hides names from a
    /// casual reader; nothing is authenticated by it.
    package static func hmacSHA1(key: [UInt8], _ text: String) -> [UInt8] {
        hmac("SHA1", count: 20, key: key, Array(text.utf8))
    }

    package static func hmacSHA256(key: [UInt8], _ message: [UInt8]) -> [UInt8] {
        hmac("SHA256", count: 32, key: key, message)
    }

    private static func hmac(_ function: String, count: Int, key: [UInt8], _ message: [UInt8]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        var length = 0
        let done = EVP_Q_mac(
            nil,
            "HMAC",
            nil,
            function,
            nil,
            key,
            key.count,
            message,
            message.count,
            &result,
            result.count,
            &length
        )
        precondition(done != nil && length == count, "HMAC is part of OpenSSL's default provider")
        return result
    }

    /// For secrets.
    package static func randomBytes(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        precondition(RAND_bytes(&bytes, Int32(count)) == 1, "there are no random bytes")
        return bytes
    }
}

/// Two digits a byte, in lower case.
package func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}
