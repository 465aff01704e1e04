import CAESGCM
import COpenSSL
import Synchronization
import Testing

@testable import H2Transport

/// The classes of processors that this one can play, each with our provider in a library context of its own.
enum AESGCMClass {
    static let all: [AESGCM.Processor] = AESGCM.Processor.allCases.filter { $0.rawValue <= caesgcm_processor(nil) }

    private static let loaded: [AESGCM.Processor: AESGCM] = Dictionary(
        uniqueKeysWithValues: all.compactMap { one in AESGCM(one).map { (one, $0) } }
    )

    private static let fresh = Mutex<[AESGCM]>([])

    static func provider(_ processor: AESGCM.Processor) throws -> AESGCM { try #require(loaded[processor]) }

    /// One that nobody has used, and that stays, as all of them do.
    static func fresh(
        _ processor: AESGCM.Processor,
        random: RandomSettings = .ofThisProcess()
    ) throws -> AESGCM {
        let one = try #require(AESGCM(processor, random: random))
        fresh.withLock { $0.append(one) }
        return one
    }
}

/// One EVP context for AES-GCM: ours, or OpenSSL's own.
final class CipherContext {
    let context: OpaquePointer
    let keyLength: Int
    let providerName: String

    /// - Parameter processor: nil for OpenSSL's own.
    init(_ processor: AESGCM.Processor?, keyLength: Int) throws {
        let library = try processor.map { try AESGCMClass.provider($0).library } ?? nil
        let cipher = try #require(EVP_CIPHER_fetch(library, "AES-\(keyLength * 8)-GCM", nil))
        defer { EVP_CIPHER_free(cipher) }
        providerName = String(cString: OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cipher)))
        self.keyLength = keyLength
        context = try #require(EVP_CIPHER_CTX_new())
        #expect(EVP_CipherInit_ex2(context, cipher, nil, nil, 1, nil) == 1)
        #expect(providerName == (processor == nil ? "default" : "bootstrap-aes-gcm"))
    }

    private init(_ context: OpaquePointer, like other: CipherContext) {
        self.context = context
        keyLength = other.keyLength
        providerName = other.providerName
    }

    deinit { EVP_CIPHER_CTX_free(context) }

    func copy() -> CipherContext? {
        guard let context = EVP_CIPHER_CTX_new() else { return nil }
        guard EVP_CIPHER_CTX_copy(context, self.context) == 1 else {
            EVP_CIPHER_CTX_free(context)
            return nil
        }
        return CipherContext(context, like: self)
    }

    func start(key: [UInt8]?, iv: [UInt8]?, encrypts: Bool) -> Bool {
        EVP_CipherInit_ex2(context, nil, key, iv, encrypts ? 1 : 0, nil) == 1
    }

    func setIVLength(_ length: Int) -> Bool {
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, Int32(length), nil) > 0
    }

    func setTag(_ tag: [UInt8]) -> Bool {
        var tag = tag
        return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(tag.count), &tag) > 0
    }

    func tag(_ length: Int = 16) -> [UInt8]? {
        var tag = [UInt8](repeating: 0, count: length)
        return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, Int32(length), &tag) > 0 ? tag : nil
    }

    var iv: [UInt8]? {
        var iv = [UInt8](repeating: 0, count: 128)
        guard EVP_CIPHER_CTX_get_updated_iv(context, &iv, iv.count) == 1 else { return nil }
        return Array(iv.prefix(Int(EVP_CIPHER_CTX_get_iv_length(context))))
    }

    func add(_ data: [UInt8]) -> Bool {
        var count: Int32 = 0
        return EVP_CipherUpdate(context, nil, &count, data, Int32(data.count)) == 1
    }

    /// In place where both are the same. nil: it failed; whatever was written stays.
    func update(
        _ input: UnsafePointer<UInt8>,
        _ output: UnsafeMutablePointer<UInt8>,
        _ count: Int
    ) -> Int? {
        var written: Int32 = 0
        return EVP_CipherUpdate(context, output, &written, input, Int32(count)) == 1 ? Int(written) : nil
    }

    func update(_ data: [UInt8]) -> [UInt8]? {
        var output = [UInt8](repeating: 0, count: data.count + 1)
        guard let count = update(data, &output, data.count) else { return nil }
        return Array(output.prefix(count))
    }

    func finish() -> Bool {
        var rest = [UInt8](repeating: 0, count: 16)
        var count: Int32 = 0
        return EVP_CipherFinal_ex(context, &rest, &count) == 1 && count == 0
    }

    /// A whole message, as TLS 1.3 does it.
    func seal(_ message: [UInt8], iv: [UInt8], additional: [UInt8], key: [UInt8]? = nil) -> ([UInt8], tag: [UInt8])? {
        guard start(key: key, iv: iv, encrypts: true), additional.isEmpty || add(additional),
            let sealed = message.isEmpty ? [] : update(message), finish(), let tag = tag()
        else { return nil }
        return (sealed, tag)
    }

    func open(_ sealed: [UInt8], iv: [UInt8], additional: [UInt8], tag: [UInt8], key: [UInt8]? = nil) -> [UInt8]? {
        guard start(key: key, iv: iv, encrypts: false), setTag(tag), additional.isEmpty || add(additional),
            let opened = sealed.isEmpty ? [] : update(sealed), finish()
        else { return nil }
        return opened
    }
}
