"""What an app needs to embed an artifact: an Android module, a C++ example, a file set for iOS, and the checks of an app that was built."""
