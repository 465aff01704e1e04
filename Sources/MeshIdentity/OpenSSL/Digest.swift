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
        var result = [UInt8](repeating: 0, count: 20)
        var length = 0
        let bytes = Array(text.utf8)
        let done = EVP_Q_mac(
            nil,
            "HMAC",
            nil,
            "SHA1",
            nil,
            key,
            key.count,
            bytes,
            bytes.count,
            &result,
            result.count,
            &length
        )
        precondition(done != nil && length == 20, "HMAC-SHA1 is part of OpenSSL's default provider")
        return result
    }
}

/// Two digits a byte, in lower case.
package func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}
