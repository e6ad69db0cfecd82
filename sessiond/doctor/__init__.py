"""`sessiond doctor`: what this machine can keep of what sessiond promises, by trying it from inside a sandbox."""
