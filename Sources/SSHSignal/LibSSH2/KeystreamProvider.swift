import COpenSSL
import Glibc

/// AES-128 in counter mode for libssh2, with the key stream made ahead of the data.
///
/// libssh2 enciphers 16 bytes a call, and OpenSSL's AES takes as long to get going as it does for those 16 bytes: more
/// than half of the time of a bulk transfer. In counter mode the key stream does not depend on the data, so it is made
/// here two kilobytes at a time by OpenSSL's own AES, and a call only adds it to the data. The cipher is what it was; a
/// third of libssh2's CPU time per byte is saved (docs/benchmarks.md).
///
/// An OpenSSL provider (provider(7)), since libssh2 asks OpenSSL for `EVP_aes_128_ctr` by itself. It has this one
/// algorithm, which nothing else here uses: TLS has no counter mode, and OpenSSL's random generator uses AES-256.
enum KeystreamProvider {
    /// Whether AES-128-CTR comes from here. Set up once per process, at the first use. Left alone where OpenSSL is to
    /// use nothing but its FIPS module.
    static let isInstalled: Bool = {
        guard EVP_default_properties_is_fips_enabled(nil) == 0, let aes = EVP_CIPHER_fetch(nil, algorithm, nil) else {
            return false
        }
        Self.aes = aes
        // The other providers stay what they are: no configured or default one is replaced.
        guard OSSL_PROVIDER_add_builtin(nil, "bootstrap-keystream", providerInit) == 1,
            OSSL_PROVIDER_try_load(nil, "bootstrap-keystream", 1) != nil
        else { return false }
        // Only a preference: what this provider does not have comes from the others.
        return EVP_set_default_properties(nil, "?\(property)") == 1
    }()

    static let algorithm = "AES-128-CTR"
    /// The property (property(7)) by which this implementation is told from OpenSSL's.
    static let property = "provider=bootstrap-keystream"

    /// OpenSSL's own AES. Written once, before anything that reads it can be reached: the provider is loaded
    /// afterwards.
    nonisolated(unsafe) fileprivate static var aes: OpaquePointer?

    // Tables that OpenSSL keeps pointers to, for as long as the process lives.
    nonisolated(unsafe) fileprivate static let cipherTable = table([
        (OSSL_FUNC_CIPHER_NEWCTX, unsafeBitCast(newContext, to: Entry.self)),
        (OSSL_FUNC_CIPHER_FREECTX, unsafeBitCast(freeContext, to: Entry.self)),
        (OSSL_FUNC_CIPHER_ENCRYPT_INIT, unsafeBitCast(startContext, to: Entry.self)),
        (OSSL_FUNC_CIPHER_DECRYPT_INIT, unsafeBitCast(startContext, to: Entry.self)),
        (OSSL_FUNC_CIPHER_UPDATE, unsafeBitCast(addKeystream, to: Entry.self)),
        (OSSL_FUNC_CIPHER_CIPHER, unsafeBitCast(addKeystream, to: Entry.self)),
        (OSSL_FUNC_CIPHER_FINAL, unsafeBitCast(final, to: Entry.self)),
        (OSSL_FUNC_CIPHER_GET_PARAMS, unsafeBitCast(getParameters, to: Entry.self)),
        (OSSL_FUNC_CIPHER_GET_CTX_PARAMS, unsafeBitCast(getContextParameters, to: Entry.self)),
    ])

    nonisolated(unsafe) fileprivate static let providerTable = table([
        (OSSL_FUNC_PROVIDER_QUERY_OPERATION, unsafeBitCast(queryOperation, to: Entry.self))
    ])

    nonisolated(unsafe) fileprivate static let algorithms: UnsafePointer<OSSL_ALGORITHM> = {
        let algorithms = UnsafeMutablePointer<OSSL_ALGORITHM>.allocate(capacity: 2)
        algorithms.initialize(repeating: OSSL_ALGORITHM(), count: 2)
        algorithms[0].algorithm_names = UnsafePointer(strdup(algorithm))
        algorithms[0].property_definition = UnsafePointer(strdup(property))
        algorithms[0].implementation = cipherTable
        return UnsafePointer(algorithms)
    }()

    private typealias Entry = @convention(c) () -> Void

    private static func table(_ entries: [(Int32, Entry)]) -> UnsafePointer<OSSL_DISPATCH> {
        let table = UnsafeMutablePointer<OSSL_DISPATCH>.allocate(capacity: entries.count + 1)
        for (index, entry) in entries.enumerated() {
            (table + index).initialize(to: OSSL_DISPATCH(function_id: entry.0, function: entry.1))
        }
        (table + entries.count).initialize(to: OSSL_DISPATCH(function_id: 0, function: nil))
        return UnsafePointer(table)
    }
}

/// What OpenSSL keeps for one direction of one connection: this header, then the key stream.
private struct Keystream {
    static let length = 2048
    static let keyLength = 16
    static let blockLength = 16

    /// OpenSSL's own AES with this connection's key.
    var aes: OpaquePointer
    /// Where the unused key stream begins; ``length``: all is used.
    var position: Int

    static var size: Int { MemoryLayout<Keystream>.stride + length }
}

// MARK: - Functions that OpenSSL calls

private let providerInit:
    @convention(c) (
        OpaquePointer?, UnsafePointer<OSSL_DISPATCH>?, UnsafeMutablePointer<UnsafePointer<OSSL_DISPATCH>?>?,
        UnsafeMutablePointer<UnsafeMutableRawPointer?>?
    ) -> Int32 = { handle, _, table, context in
        table?.pointee = KeystreamProvider.providerTable
        // There is no context; it only must not be nil.
        context?.pointee = UnsafeMutableRawPointer(handle)
        return 1
    }

private let queryOperation:
    @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafeMutablePointer<Int32>?) -> UnsafePointer<OSSL_ALGORITHM>? = {
        _,
        operation,
        noCache in
        noCache?.pointee = 0
        return operation == OSSL_OP_CIPHER ? KeystreamProvider.algorithms : nil
    }

private let newContext: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { _ in
    guard let aes = EVP_CIPHER_CTX_new() else { return nil }
    guard EVP_EncryptInit_ex2(aes, KeystreamProvider.aes, nil, nil, nil) == 1, let memory = malloc(Keystream.size)
    else {
        EVP_CIPHER_CTX_free(aes)
        return nil
    }
    memory.initializeMemory(as: Keystream.self, to: Keystream(aes: aes, position: Keystream.length))
    return memory
}

private let freeContext: @convention(c) (UnsafeMutableRawPointer?) -> Void = { context in
    guard let context else { return }
    EVP_CIPHER_CTX_free(context.assumingMemoryBound(to: Keystream.self).pointee.aes)
    OPENSSL_cleanse(context, Keystream.size)
    free(context)
}

/// Encryption and decryption are the same.
private let startContext:
    @convention(c) (
        UnsafeMutableRawPointer?, UnsafePointer<UInt8>?, Int, UnsafePointer<UInt8>?, Int, UnsafePointer<OSSL_PARAM>?
    ) -> Int32 = { context, key, keyLength, counter, counterLength, _ in
        guard let keystream = context?.assumingMemoryBound(to: Keystream.self),
            key == nil || keyLength == Keystream.keyLength, counter == nil || counterLength == Keystream.blockLength
        else { return 0 }
        keystream.pointee.position = Keystream.length
        return EVP_EncryptInit_ex2(keystream.pointee.aes, nil, key, counter, nil)
    }

private let addKeystream:
    @convention(c) (
        UnsafeMutableRawPointer?, UnsafeMutablePointer<UInt8>?, UnsafeMutablePointer<Int>?, Int, UnsafePointer<UInt8>?,
        Int
    ) -> Int32 = { context, output, outputLength, outputSize, input, length in
        guard let context, let output, let input, outputSize >= length else { return 0 }
        let keystream = context.assumingMemoryBound(to: Keystream.self)
        let bytes = context + MemoryLayout<Keystream>.stride
        outputLength?.pointee = length
        let (source, sink) = (UnsafeRawPointer(input), UnsafeMutableRawPointer(output))
        var done = 0
        while done < length {
            if keystream.pointee.position == Keystream.length {
                // The encryption of zeros is the key stream itself.
                memset(bytes, 0, Keystream.length)
                var count: Int32 = 0
                let start = bytes.assumingMemoryBound(to: UInt8.self)
                guard EVP_EncryptUpdate(keystream.pointee.aes, start, &count, start, Int32(Keystream.length)) == 1
                else {
                    return 0
                }
                keystream.pointee.position = 0
            }
            let position = keystream.pointee.position
            if length - done >= 16 && position <= Keystream.length - 16 {
                let data = (source + done).loadUnaligned(as: SIMD2<UInt64>.self)
                let key = (bytes + position).loadUnaligned(as: SIMD2<UInt64>.self)
                (sink + done).storeBytes(of: data ^ key, as: SIMD2<UInt64>.self)
                keystream.pointee.position = position + 16
                done += 16
            } else {
                output[done] = input[done] ^ (bytes + position).load(as: UInt8.self)
                keystream.pointee.position = position + 1
                done += 1
            }
        }
        return 1
    }

/// A stream cipher holds nothing back.
private let final:
    @convention(c) (
        UnsafeMutableRawPointer?, UnsafeMutablePointer<UInt8>?, UnsafeMutablePointer<Int>?, Int
    ) -> Int32 = { _, _, outputLength, _ in
        outputLength?.pointee = 0
        return 1
    }

private let getParameters: @convention(c) (UnsafeMutablePointer<OSSL_PARAM>?) -> Int32 = { parameters in
    setLengths(parameters)
    if let mode = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_MODE) {
        OSSL_PARAM_set_uint(mode, UInt32(EVP_CIPH_CTR_MODE))
    }
    // Counter mode makes a stream cipher of AES.
    if let block = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_BLOCK_SIZE) { OSSL_PARAM_set_size_t(block, 1) }
    return 1
}

private let getContextParameters:
    @convention(c) (UnsafeMutableRawPointer?, UnsafeMutablePointer<OSSL_PARAM>?) -> Int32 = {
        _,
        parameters in
        setLengths(parameters)
        return 1
    }

private func setLengths(_ parameters: UnsafeMutablePointer<OSSL_PARAM>?) {
    if let key = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_KEYLEN) {
        OSSL_PARAM_set_size_t(key, Keystream.keyLength)
    }
    if let counter = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_IVLEN) {
        OSSL_PARAM_set_size_t(counter, Keystream.blockLength)
    }
}
