import COpenSSL

/// How long OpenSSL's own state lives.
public enum OpenSSLLifetime {
    /// Has OpenSSL keep its state when the process exits. To be called by a program's `main`, before anything else uses
    /// OpenSSL.
    ///
    /// By default exit(3) takes the library down while other threads may still use it (an event loop that closes a TLS
    /// or an SSH session), and a program that had done its work ends with a segmentation fault (OPENSSL_init_crypto(3),
    /// OPENSSL_INIT_NO_ATEXIT). What is not taken down the kernel frees.
    public static func untilTheProcessIsGone() {
        OPENSSL_init_crypto(UInt64(OPENSSL_INIT_NO_ATEXIT), nil)
    }
}
