"""Today's runtimes, as devices have them: LiteRT's two APIs and MediaPipe."""
